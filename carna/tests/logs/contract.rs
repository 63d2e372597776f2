//! What is documented of a line, read from what Elasticsearch is told: `deploy/logstash/index-template.json`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::workspace;
use serde_json::Value;

/// How far the time of a line may be from when it was sent.
const LATE: Duration = Duration::from_secs(20);

/// The fields, by their full names.
#[derive(Debug)]
pub(crate) struct Contract {
    fields: BTreeMap<String, Field>,
    required: Vec<String>,
    longest_text: usize,
}

#[derive(Debug)]
struct Field {
    kind: String,
    longest: Option<usize>,
}

impl Contract {
    pub(crate) fn read() -> Result<Self> {
        let file = workspace().root().join("deploy/logstash/index-template.json");
        let template: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let mappings = &template["template"]["mappings"];
        ensure!(mappings["dynamic"] == "strict", "fields that are not listed are taken");
        let mut fields = BTreeMap::new();
        collect(&mappings["properties"], "", &mut fields)?;
        let required: Vec<String> = serde_json::from_value(mappings["_meta"]["required"].clone())?;
        ensure!(required.iter().all(|name| fields.contains_key(name)), "{required:?} are not all fields");
        let longest_text = mappings["_meta"]["longest_text"].as_u64().context("no longest_text")? as usize;
        Ok(Self { fields, required, longest_text })
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Fails unless a line keeps it. Gives what it says.
    pub(crate) fn check(&self, line: &[u8]) -> Result<Value> {
        let checked = || {
            let text = std::str::from_utf8(line)?;
            ensure!(
                !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')),
                "it holds what ends a line"
            );
            let document: Value = serde_json::from_str(text)?;
            ensure!(unique(text)?, "a name is there twice");
            let mut seen = Vec::new();
            self.check_object(&document, "", &mut seen)?;
            let missing = self.required.iter().find(|name| !seen.contains(name));
            ensure!(missing.is_none(), "there is no {}", missing.map_or("", String::as_str));
            Ok(document)
        };
        checked().with_context(|| String::from_utf8_lossy(line).chars().take(2000).collect::<String>())
    }

    /// The same of a line that was written just now.
    pub(crate) fn check_now(&self, line: &[u8]) -> Result<Value> {
        let document = self.check(line)?;
        let at = humantime::parse_rfc3339(document["@timestamp"].as_str().unwrap_or_default())?;
        let age = SystemTime::now().duration_since(at).context("it is of the future")?;
        ensure!(age < LATE, "it was written {age:?} ago: {document}");
        Ok(document)
    }

    fn check_object(&self, value: &Value, prefix: &str, seen: &mut Vec<String>) -> Result<()> {
        for (name, value) in value.as_object().context("it is no object")? {
            let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match self.fields.get(&full) {
                Some(field) => self.check_value(field, value).with_context(|| format!("{full} is {value}"))?,
                None if value.is_object() => self.check_object(value, &full, seen)?,
                None => bail!("{full} is no field"),
            }
            seen.push(full);
        }
        Ok(())
    }

    fn check_value(&self, field: &Field, value: &Value) -> Result<()> {
        match &*field.kind {
            "flattened" => {
                let mut values = value.as_object().context("no object")?.values();
                return values.try_for_each(|value| fits(value, field.longest));
            }
            "keyword" if value.is_array() => {
                return value.as_array().into_iter().flatten().try_for_each(|value| fits(value, field.longest));
            }
            "keyword" | "constant_keyword" => fits(value, field.longest)?,
            "match_only_text" => fits(value, Some(self.longest_text))?,
            "date" => drop(humantime::parse_rfc3339(value.as_str().context("no text")?)?),
            "ip" => drop(value.as_str().context("no text")?.parse::<IpAddr>()?),
            "long" => ensure!(value.is_i64() || value.is_u64(), "no number"),
            other => bail!("nobody knows {other}"),
        }
        Ok(())
    }
}

fn fits(value: &Value, longest: Option<usize>) -> Result<()> {
    let text = value.as_str().context("no text")?;
    ensure!(longest.is_none_or(|longest| text.len() <= longest), "too long");
    Ok(())
}

fn collect(properties: &Value, prefix: &str, fields: &mut BTreeMap<String, Field>) -> Result<()> {
    for (name, field) in properties.as_object().context("no properties")? {
        let full = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match field["type"].as_str() {
            Some(kind) => {
                let longest = field["ignore_above"].as_u64().map(|longest| longest as usize);
                fields.insert(full, Field { kind: kind.to_owned(), longest });
            }
            None => collect(&field["properties"], &full, fields)?,
        }
    }
    Ok(())
}

/// Whether no object has a name twice: of those a reader takes the first, and another one the last.
fn unique(text: &str) -> Result<bool> {
    use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
    struct Unique(bool);
    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Names)
        }
    }
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Unique;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
            let (mut names, mut is_unique) = (std::collections::HashSet::new(), true);
            while let Some((name, value)) = map.next_entry::<String, Unique>()? {
                is_unique &= names.insert(name) && value.0;
            }
            Ok(Unique(is_unique))
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Unique, A::Error> {
            let mut is_unique = true;
            while let Some(one) = all.next_element::<Unique>()? {
                is_unique &= one.0;
            }
            Ok(Unique(is_unique))
        }
        fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
            Ok(Unique(true))
        }
        fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
            Ok(Unique(true))
        }
        fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
            Ok(Unique(true))
        }
        fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
            Ok(Unique(true))
        }
        fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
            Ok(Unique(true))
        }
        fn visit_unit<E>(self) -> Result<Unique, E> {
            Ok(Unique(true))
        }
    }
    Ok(serde_json::from_str::<Unique>(text)?.0)
}
