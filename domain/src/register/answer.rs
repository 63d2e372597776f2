//! The 200 of a REGISTER (RFC 3261 section 10.3 step 8).

use std::fmt::{self, Write};

use super::{Decision, PathMode, Register};
use crate::gruu::{self, GruuKey};
use crate::{Aor, Binding, Timestamp};

/// The headers of the 200, name and value: all current bindings in one Contact, Date, and what the extensions add.
///
/// `existing` and `now` are those that were decided over; without `temporary` user agents get public GRUUs only.
pub fn answer_headers(
    decision: &Decision,
    existing: &[Binding],
    register: &Register,
    temporary: Option<&GruuKey>,
    now: Timestamp,
) -> Vec<(String, String)> {
    let policy = &register.policy;
    let gruus = (policy.gruu && register.supported.gruu).then_some(Gruus { aor: &register.aor, temporary, now });
    let contact = contact_value(&decision.current(existing, now), &policy.received_param, gruus, now);
    let mut headers = Headers(Vec::with_capacity(4));
    if !contact.is_empty() {
        headers.add("Contact", contact);
    }
    headers.add("Date", now.http_date());
    let echo_path = match policy.path {
        PathMode::Ignore | PathMode::Off => false,
        PathMode::Lazy | PathMode::Strict => register.supported.path,
    };
    if echo_path && !register.path.is_empty() {
        headers.add("Path", register.path.clone());
    }
    if decision.outbound {
        headers.add("Require", "outbound".to_owned());
        headers.add("Supported", "outbound".to_owned());
        if policy.flow_timer > 0 {
            headers.add("Flow-Timer", policy.flow_timer.to_string());
        }
    }
    headers.0
}

struct Headers(Vec<(String, String)>);

impl Headers {
    fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }
}

#[derive(Clone, Copy)]
struct Gruus<'a> {
    aor: &'a Aor,
    temporary: Option<&'a GruuKey>,
    now: Timestamp,
}

/// The body of the Contact header: every current binding with its remaining seconds, as the stock registrar writes it. `""` when
/// there are none.
fn contact_value(current: &[&Binding], received_param: &str, gruus: Option<Gruus<'_>>, now: Timestamp) -> String {
    let mut value = String::new();
    for binding in current {
        if !value.is_empty() {
            value.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write_contact(&mut value, binding, received_param, now);
        if let Some(gruus) = gruus.filter(|_| !binding.instance.is_empty()) {
            let _ = write_gruus(&mut value, binding, gruus);
        }
    }
    value
}

fn write_contact(value: &mut String, binding: &Binding, received_param: &str, now: Timestamp) -> fmt::Result {
    write!(value, "<{}>", binding.contact)?;
    if binding.q >= 0 {
        write!(value, ";q={}", q_text(binding.q))?;
    }
    write!(value, ";expires={}", binding.expires_at.seconds_after(now))?;
    if !binding.received.is_empty() && !received_param.is_empty() {
        write!(value, ";{received_param}=\"{}\"", binding.received)?;
    }
    if !binding.instance.is_empty() {
        write!(value, ";+sip.instance=\"{}\"", binding.instance)?;
    }
    if binding.reg_id != 0 {
        write!(value, ";reg-id={}", binding.reg_id)?;
    }
    Ok(())
}

fn write_gruus(value: &mut String, binding: &Binding, gruus: Gruus<'_>) -> fmt::Result {
    write!(value, ";pub-gruu=\"{}\"", gruu::public(gruus.aor, &binding.instance))?;
    match gruus.temporary {
        Some(key) => write!(value, ";temp-gruu=\"{}\"", key.temporary(gruus.aor, binding, gruus.now)),
        None => Ok(()),
    }
}

/// A q value in thousandths: 0 to 1 with at most three decimals (RFC 3261 section 25.1).
pub fn parse_q(written: &str) -> Option<i16> {
    let (whole, decimals) = written.trim().split_once('.').unwrap_or((written.trim(), ""));
    if whole.len() != 1 || decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: i16 = whole.parse().ok()?;
    let thousandths: i16 = format!("{decimals:0<3}").parse().ok()?;
    let q = whole * 1000 + thousandths;
    (0..=1000).contains(&q).then_some(q)
}

fn q_text(thousandths: i16) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::tests::{NOW, adding, decided};

    #[test]
    fn the_200_lists_remaining_seconds_and_parameters() {
        let binding = Binding {
            q: 125,
            received: "sip:192.0.2.1:1024".into(),
            instance: "<urn:uuid:1>".into(),
            reg_id: 2,
            ..decided(&[], &adding(1, &["sip:a@h;ob"])).writes.remove(0)
        };
        let shown = contact_value(&[&binding], "received", None, NOW.plus_seconds(600));
        assert_eq!(
            shown,
            "<sip:a@h;ob>;q=0.125;expires=3000;received=\"sip:192.0.2.1:1024\";+sip.instance=\"<urn:uuid:1>\";reg-id=2"
        );
        assert!(!contact_value(&[&binding], "", None, NOW).contains("received"));
    }

    #[test]
    fn the_200_has_a_date_and_no_contact_when_there_is_none() {
        let query = adding(1, &[]);
        let decision = decided(&[], &query);
        let headers = answer_headers(&decision, &[], &query, None, Timestamp(784_111_777_000));
        assert_eq!(headers, [("Date".to_owned(), "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())]);
    }

    #[test]
    fn q_values() {
        let read: Vec<_> = ["0", "1", "0.7", "0.125", "1.000", "0."].iter().map(|q| parse_q(q)).collect();
        assert_eq!(read, [Some(0), Some(1000), Some(700), Some(125), Some(1000), Some(0)]);
        for wrong in ["", "1.1", "2", "-1", "0.1234", "x", "0.x"] {
            assert_eq!(parse_q(wrong), None, "{wrong}");
        }
        assert_eq!([q_text(0), q_text(1000), q_text(700)], ["0", "1", "0.7"]);
    }
}
