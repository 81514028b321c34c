//! Keys and values, as `--device` and the tables of a file have them, and the command line that they stand for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{ArgAction, Command};
use serde_json::{Map, Value};

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing.
    Alone,
    /// A value.
    Text(OsString),
    /// true or false in a file.
    Switch(bool),
}

/// Keys with their values, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(pub(super) Vec<(String, Given)>);

impl Pairs {
    /// Reads `KEY=VALUE,KEY,...`: a comma that is doubled is part of the value (as in QEMU's options).
    ///
    /// # Errors
    /// A key is missing, or is no text.
    pub fn split(text: &OsStr) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for item in items(text.as_bytes()) {
            let (key, given) = match item.iter().position(|byte| *byte == b'=') {
                None => (item.as_slice(), Given::Alone),
                Some(at) => {
                    let (key, value) = item.split_at(at);
                    let value = value.get(1..).unwrap_or_default().to_vec();
                    (key, Given::Text(OsString::from_vec(value)))
                }
            };
            match std::str::from_utf8(key) {
                Ok("") => return Err("a key is missing; a comma in a value is doubled".to_owned()),
                Ok(key) => pairs.push((key.to_owned(), given)),
                Err(_) => return Err(format!("{:?} is no key", OsStr::from_bytes(key))),
            }
        }
        Ok(Self(pairs))
    }

    /// Reads an object.
    pub(crate) fn of(object: &Map<String, Value>) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for (key, value) in object {
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            for value in values {
                let given = match value {
                    Value::Null => Given::Alone,
                    Value::Bool(on) => Given::Switch(*on),
                    Value::Number(number) => Given::Text(number.to_string().into()),
                    Value::String(text) => Given::Text(text.into()),
                    Value::Array(_) | Value::Object(_) => {
                        return Err(format!("{key}: a text, a number, or true or false"));
                    }
                };
                pairs.push((key.clone(), given));
            }
        }
        Ok(Self(pairs))
    }

    /// The keys and what stands behind them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Given)> {
        self.0.iter().map(|(key, given)| (key.as_str(), given))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }

    pub(crate) fn push(&mut self, key: &str, value: impl Into<OsString>) {
        self.0.push((key.to_owned(), Given::Text(value.into())));
    }

    /// Those whose key is not `unwanted`.
    pub(super) fn without(&self, unwanted: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(key, _)| !unwanted(key)).cloned().collect())
    }

    /// The arguments that say the same to `command`.
    pub(super) fn to_args(&self, command: &Command) -> Result<Vec<OsString>, String> {
        let args = self.0.iter().map(|(key, given)| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(key.as_str()));
            let flag = arg.is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
            let mut option = OsString::from(format!("--{key}"));
            match (given, flag) {
                (Given::Alone, _) => Ok(Some(option)),
                (given, true) => match on(given) {
                    Some(true) => Ok(Some(option)),
                    Some(false) => Ok(None),
                    None => Err(format!("{key}: on or off, or true or false")),
                },
                (given, false) => {
                    option.push("=");
                    match given {
                        Given::Text(text) => option.push(text),
                        Given::Switch(on) => option.push(if *on { "on" } else { "off" }),
                        Given::Alone => {}
                    }
                    Ok(Some(option))
                }
            }
        });
        args.filter_map(Result::transpose).collect()
    }
}

fn on(given: &Given) -> Option<bool> {
    match given {
        Given::Alone => Some(true),
        Given::Switch(on) => Some(*on),
        Given::Text(text) => match text.to_str()? {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
    }
}

/// Splits at single commas, and makes one of two.
fn items(text: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut rest = text.iter().peekable();
    while let Some(&byte) = rest.next() {
        if byte == b',' && rest.next_if(|next| **next == b',').is_none() {
            items.push(Vec::new());
        } else if let Some(item) = items.last_mut() {
            item.push(byte);
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn split(text: &str) -> Vec<(String, Given)> {
        Pairs::split(OsStr::new(text)).unwrap().0
    }

    fn text(key: &str, value: &str) -> (String, Given) {
        (key.to_owned(), Given::Text(value.into()))
    }

    #[test]
    fn split_takes_double_commas_and_further_equals_signs_as_part_of_a_value() {
        assert_eq!(
            split("file=a,,b=c,read-only,serial=,x=,,"),
            [text("file", "a,b=c"), ("read-only".into(), Given::Alone), text("serial", ""), text("x", ","),]
        );
        assert_eq!(split("a=,,,b=1"), [text("a", ","), text("b", "1")]);
    }

    #[test]
    fn object_says_what_a_text_says() {
        let object = serde_json::json!({ "a": "1,2", "b": [3, "x"], "c": true, "d": null });
        let pairs = Pairs::of(object.as_object().unwrap()).unwrap();
        let switch = ("c".to_owned(), Given::Switch(true));
        assert_eq!(
            pairs.0,
            [text("a", "1,2"), text("b", "3"), text("b", "x"), switch, ("d".into(), Given::Alone)]
        );
        assert!(pairs.has("b") && !pairs.has("e"));
        let wrong = serde_json::json!({ "a": {} });
        assert!(Pairs::of(wrong.as_object().unwrap()).unwrap_err().contains('a'));
    }

    #[test]
    fn split_without_a_key_is_refused() {
        for wrong in ["", "=x", "a=1,", ",a=1", "a=1,=2"] {
            assert!(Pairs::split(OsStr::new(wrong)).unwrap_err().contains("key"), "{wrong}");
        }
        assert!(Pairs::split(OsStr::from_bytes(b"\xff=1")).is_err());
        let path = Pairs::split(OsStr::from_bytes(b"a=\xff")).unwrap();
        assert_eq!(path.0, [("a".into(), Given::Text(OsString::from_vec(vec![0xff])))]);
    }

    #[test]
    fn args_of_a_flag_are_there_or_not() {
        let command = Command::new("x")
            .arg(Arg::new("ro").long("read-only").action(ArgAction::SetTrue))
            .arg(Arg::new("cache").long("cache"));
        let args = |pairs: &[(&str, Given)]| {
            Pairs(pairs.iter().map(|(key, given)| ((*key).to_owned(), given.clone())).collect())
                .to_args(&command)
        };
        for on in [Given::Alone, Given::Switch(true), Given::Text("true".into()), Given::Text("on".into())] {
            assert_eq!(args(&[("read-only", on)]).unwrap(), ["--read-only"]);
        }
        for off in [Given::Switch(false), Given::Text("off".into()), Given::Text("false".into())] {
            assert!(args(&[("read-only", off)]).unwrap().is_empty());
        }
        assert!(args(&[("read-only", Given::Text("maybe".into()))]).unwrap_err().contains("read-only"));
        assert_eq!(args(&[("cache", Given::Switch(true))]).unwrap(), ["--cache=on"]);
        assert_eq!(args(&[("cache", Given::Text("-x".into()))]).unwrap(), ["--cache=-x"]);
    }
}
