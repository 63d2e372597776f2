//! Account, limits and attributes on the command line.

use std::str::FromStr;

use clap::{ArgGroup, Args, value_parser};
use store::admin::Profile;

/// What a subscriber is given; what is left out keeps its value.
#[derive(Debug, Args)]
pub(crate) struct ProfileOptions {
    /// Account that the subscriber belongs to.
    #[arg(long, value_name = "ID", value_parser = account)]
    account: Option<String>,
    /// Bindings that it may have; 0 for the module's limit.
    #[arg(long, value_name = "N", value_parser = value_parser!(i32).range(0..))]
    max_contacts: Option<i32>,
    /// Calls that it may have at once; 0 for no limit.
    #[arg(long, value_name = "N", value_parser = value_parser!(i32).range(0..))]
    max_calls: Option<i32>,
    /// An attribute for the routing script; may be given several times.
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
}

/// The same, and what is taken away; at least one of all.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["account", "max_contacts", "max_calls", "attributes", "no_account", "unset_attributes"]))]
pub(crate) struct ProfileChanges {
    #[command(flatten)]
    given: ProfileOptions,
    /// Take the subscriber out of its account.
    #[arg(long, conflicts_with = "account")]
    no_account: bool,
    /// An attribute to remove; may be given several times.
    #[arg(long = "unset-attr", value_name = "NAME")]
    unset_attributes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Attribute {
    name: String,
    value: String,
}

impl ProfileOptions {
    /// The profile of a new subscriber.
    pub(super) fn profile(&self) -> Profile {
        let mut profile = Profile::default();
        self.apply(&mut profile);
        profile
    }

    fn apply(&self, profile: &mut Profile) {
        if let Some(account) = &self.account {
            profile.account_id.clone_from(account);
        }
        profile.max_contacts = self.max_contacts.unwrap_or(profile.max_contacts);
        profile.max_calls = self.max_calls.unwrap_or(profile.max_calls);
        profile.attrs.extend(self.attributes.iter().map(|Attribute { name, value }| (name.clone(), value.clone())));
    }
}

impl ProfileChanges {
    /// Removes first, so that an attribute that is also given stays.
    pub(super) fn apply(&self, profile: &mut Profile) {
        if self.no_account {
            profile.account_id.clear();
        }
        profile.attrs.retain(|name, _| !self.unset_attributes.contains(name));
        self.given.apply(profile);
    }
}

impl FromStr for Attribute {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("a name is not empty and has no white space");
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

fn account(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("an account is not empty; --no-account of 'set' takes a subscriber out of its account"),
        _ if text.contains(char::is_control) => Err("an account has no control characters"),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: &str) -> Attribute {
        Attribute { name: name.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn an_attribute_is_split_at_the_first_equals_sign() {
        assert_eq!("a=b=c".parse(), Ok(attribute("a", "b=c")));
        assert_eq!("a=".parse(), Ok(attribute("a", "")));
        for wrong in ["", "a", "=b", "a b=c"] {
            assert!(wrong.parse::<Attribute>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_out_keeps_its_value() {
        let before = Profile {
            account_id: "acme".to_owned(),
            max_contacts: 3,
            max_calls: 4,
            attrs: [("lang", "en"), ("tz", "UTC")].map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
        };
        let given = ProfileOptions {
            account: None,
            max_contacts: Some(5),
            max_calls: None,
            attributes: vec![attribute("lang", "fr")],
        };
        let changes = ProfileChanges { given, no_account: false, unset_attributes: vec!["tz".to_owned()] };
        let mut after = before.clone();
        changes.apply(&mut after);
        let attrs = [("lang".to_owned(), "fr".to_owned())].into();
        assert_eq!(after, Profile { max_contacts: 5, attrs, ..before });
    }
}
