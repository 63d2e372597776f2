//! What the manifests of all schedulers have in common: how they are read, and that they start each role.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fleet::Role;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// From PyPI: checks by a JSON schema, and brings that of Compose.
pub(crate) const SCHEMAS: &str = "check-jsonschema==0.39.0";
/// The roles that the image is for.
pub(crate) const ROLES: [Role; 4] = [Role::LoadBalancer, Role::Dispatcher, Role::Registrar, Role::Outbound];
/// What an address that is not known before is in these tests.
pub(crate) const ADDRESS: &str = "192.0.2.1";

/// Fails unless each role is there.
pub(crate) fn check_roles(found: impl Iterator<Item = Role>) -> Result<()> {
    let found: BTreeSet<&str> = found.map(Role::name).collect();
    for role in ROLES {
        ensure!(found.contains(role.name()), "nothing starts a {role}");
    }
    Ok(())
}

/// The files of this ending.
pub(crate) fn files(directory: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == ending));
    files.sort();
    Ok(files)
}

/// The documents of a YAML file, merge keys resolved.
pub(crate) fn documents(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file)?;
    Yaml::load_from_str(&text)?.iter().map(value).collect()
}

fn value(yaml: &Yaml) -> Result<Value> {
    Ok(match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(is_true)) => json!(is_true),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => items.iter().map(value).collect::<Result<_>>()?,
        Yaml::Mapping(pairs) => {
            let mut object = Map::new();
            for (name, inner) in pairs {
                let name = name.as_str().context("a key is no string")?;
                match (name, value(inner)?) {
                    ("<<", Value::Object(merged)) => {
                        for (name, inner) in merged {
                            object.entry(name).or_insert(inner);
                        }
                    }
                    (name, inner) => drop(object.insert(name.to_owned(), inner)),
                }
            }
            Value::Object(object)
        }
        other => bail!("not understood: {other:?}"),
    })
}

/// The strings of a list.
pub(crate) fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The string that a JSON pointer leads to, or an empty one.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a JSON pointer leads to `true`.
pub(crate) fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&json!(true))
}

/// The parts of this number of what is separated by colons.
pub(crate) fn places(all: &[String], part: usize) -> Vec<String> {
    all.iter().filter_map(|one| one.split(':').nth(part)).map(str::to_owned).collect()
}
