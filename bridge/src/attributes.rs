//! What a routing script is told of the subscriber that a request is authenticated as: the parameter `load_credentials`.

use store::Subscriber;

/// A column of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The account that it belongs to.
    AccountId,
    /// How many bindings it may have.
    MaxContacts,
    /// How many calls it may have at once.
    MaxCalls,
    /// The attribute of this name.
    Attribute(String),
}

/// Values of the configured columns, in their order; `None` for a value that a subscriber does not have.
pub type Attributes = Vec<Option<String>>;

impl Column {
    fn named(name: &str) -> Self {
        match name {
            "account_id" => Self::AccountId,
            "max_contacts" => Self::MaxContacts,
            "max_calls" => Self::MaxCalls,
            attribute => Self::Attribute(attribute.to_owned()),
        }
    }

    /// Whether its values are whole numbers.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::MaxContacts | Self::MaxCalls)
    }

    fn of(&self, subscriber: &Subscriber) -> Option<String> {
        match self {
            Self::AccountId => Some(subscriber.account_id.clone()).filter(|account| !account.is_empty()),
            Self::MaxContacts => Some(subscriber.max_contacts.to_string()),
            Self::MaxCalls => Some(subscriber.max_calls.to_string()),
            Self::Attribute(name) => subscriber.attrs.get(name).cloned(),
        }
    }
}

/// The values of these columns.
pub(crate) fn values(columns: &[Column], subscriber: &Subscriber) -> Attributes {
    columns.iter().map(|column| column.of(subscriber)).collect()
}

/// Reads a list as the stock `load_credentials` has it: `$avp(x)=column;...`, where `column` alone stands for
/// `$avp(column)=column`. Gives the variable and the column of each.
///
/// # Errors
/// The part that is not understood.
pub fn parse(list: &str) -> Result<Vec<(String, Column)>, String> {
    let parts = list.split(';').map(str::trim);
    let written: Vec<&str> = parts.clone().filter(|part| !part.is_empty()).collect();
    // A semicolon may end the list, but nothing may be missing within it.
    if parts.rev().skip(1).any(str::is_empty) {
        return Err(list.to_owned());
    }
    written.into_iter().map(|part| entry(part).ok_or_else(|| part.to_owned())).collect()
}

/// A variable may hold `=`, so the last one separates.
fn entry(part: &str) -> Option<(String, Column)> {
    let (variable, column) = match part.rsplit_once('=') {
        Some((variable, column)) => (variable.trim().to_owned(), column.trim()),
        None => (format!("$avp({part})"), part),
    };
    let is_name = !column.is_empty() && !column.contains(|c: char| c.is_whitespace() || "$()>".contains(c));
    (is_name && variable.starts_with('$')).then(|| (variable, Column::named(column)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_variables_and_columns() {
        let list = "rpid; $avp(a)=account_id;$xavp(s=>calls) = max_calls;";
        let expected = [
            ("$avp(rpid)".to_owned(), Column::Attribute("rpid".to_owned())),
            ("$avp(a)".to_owned(), Column::AccountId),
            ("$xavp(s=>calls)".to_owned(), Column::MaxCalls),
        ];
        assert_eq!(parse(list), Ok(expected.to_vec()));
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn any_list_is_read_or_a_part_of_it_is_named(list in "([$a-c()=; \\t]|avp|=>|\\PC){0,12}") {
            match parse(&list) {
                Ok(entries) => assert!(entries.iter().all(|(variable, _)| variable.starts_with('$'))),
                Err(part) => assert!(list.contains(&part), "{part:?}"),
            }
        }
    }

    #[test]
    fn the_part_that_is_not_understood_is_named() {
        for (list, part) in [
            ("rpid;$avp(a)=", "$avp(a)="),
            ("$xavp(a=>b)", "$xavp(a=>b)"),
            ("a=b", "a=b"),
            ("two words", "two words"),
            ("a;;b", "a;;b"),
        ] {
            assert_eq!(parse(list), Err(part.to_owned()), "{list}");
        }
    }
}
