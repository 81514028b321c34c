//! The file of `--config`: TOML, with a table `[[device]]` for each device.

use std::path::Path;

use clap::Command;
use toml::{Table, Value};

use super::keys::{Given, Pairs};

/// The options of the process that a file may not set.
const NO_SETTINGS: [&str; 5] = ["device", "config", "print-capabilities", "help", "version"];
/// The option with which a file without devices makes sense.
const DIRECTORY: &str = "device-dir";

/// What a file says.
pub(super) struct ConfigFile {
    /// For the process.
    pub(super) settings: Pairs,
    /// Its devices, or what is wrong with one.
    pub(super) devices: Vec<Result<Pairs, String>>,
}

impl ConfigFile {
    /// Reads a file, whose settings are the options of `command`.
    pub(super) fn read(path: &Path, command: &Command) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {shown}: {}", crate::logging::one_line(&error)))?;
        Self::parse(&text, command).map_err(|reason| format!("{shown}: {reason}"))
    }

    fn parse(text: &str, command: &Command) -> Result<Self, String> {
        let mut table = table(text)?;
        let devices = match table.remove("device") {
            Some(Value::Array(devices)) if !devices.is_empty() => devices,
            Some(Value::Table(_)) => {
                return Err("a device is a table [[device]], in double brackets".to_owned());
            }
            None if table.contains_key(DIRECTORY) => Vec::new(),
            _ => return Err("no device: each is a table [[device]]".to_owned()),
        };
        let known = command.get_arguments().filter_map(clap::Arg::get_long);
        let known: Vec<&str> = known.filter(|name| !NO_SETTINGS.contains(name)).collect();
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            let known = known.join(", ");
            return Err(format!(
                "{key} is no setting of the process, which are {known}; or it belongs below [[device]]"
            ));
        }
        let devices = devices.into_iter().map(|device| match device {
            Value::Table(device) => pairs(device),
            _ => Err("not a table".to_owned()),
        });
        Ok(Self { settings: pairs(table)?, devices: devices.collect() })
    }
}

/// Reads the text of a file that is one device: keys without a table.
pub(crate) fn read_device(text: &str) -> Result<Pairs, String> {
    pairs(table(text)?)
}

fn table(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count());
        let line = line.map(|line| format!("line {}: ", line + 1)).unwrap_or_default();
        format!("{line}{}", error.message())
    })
}

fn pairs(table: Table) -> Result<Pairs, String> {
    let mut pairs = Vec::new();
    for (key, value) in table {
        match value {
            Value::Array(values) => {
                for value in values {
                    pairs.push((key.clone(), given(&key, value)?));
                }
            }
            value => pairs.push((key.clone(), given(&key, value)?)),
        }
    }
    Ok(Pairs(pairs))
}

fn given(key: &str, value: Value) -> Result<Given, String> {
    match value {
        Value::String(text) => Ok(Given::Text(text.into())),
        Value::Integer(number) => Ok(Given::Text(number.to_string().into())),
        Value::Float(number) => Ok(Given::Text(number.to_string().into())),
        Value::Boolean(on) => Ok(Given::Switch(on)),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            Err(format!("{key}: a text, a number, or true or false"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        let long = |name: &'static str| clap::Arg::new(name).long(name);
        ConfigFile::parse(text, &Command::new("x").args(["config", "log-level", DIRECTORY].map(long)))
    }

    fn wrong(text: &str) -> String {
        parse(text).map(|_| ()).unwrap_err()
    }

    #[test]
    fn file_gives_settings_and_devices_in_their_order() {
        let file = parse(
            "log-level = 'debug'\n[[device]]\nname = 'b'\nblk-file = 'x,y'\nread-only = true\nnum-queues = 4\n\
             [[device]]\nname = 'a'\nlist = [1, 2]\n",
        )
        .unwrap();
        let text = |key: &str, value: &str| (key.to_owned(), Given::Text(value.into()));
        assert_eq!(file.settings.0, [text("log-level", "debug")]);
        let devices: Vec<_> = file.devices.into_iter().map(Result::unwrap).collect();
        assert!(devices[0].0.contains(&text("blk-file", "x,y")) && devices[0].0.contains(&text("name", "b")));
        assert!(devices[0].0.contains(&("read-only".to_owned(), Given::Switch(true))));
        assert!(devices[0].0.contains(&text("num-queues", "4")));
        assert_eq!(devices[1].0, [text("list", "1"), text("list", "2"), text("name", "a")]);
    }

    #[test]
    fn file_that_is_wrong_says_where() {
        assert!(wrong("log-level = 'info'\nx = = 1\n").starts_with("line 2: "));
        assert!(wrong("").contains("no device"));
        assert!(wrong("device = []").contains("no device"));
        assert!(wrong("[device]\nname = 'x'").contains("double brackets"));
        assert!(wrong("blk-file = 'x'\n[[device]]\nname = 'y'").contains("blk-file is no setting"));
        assert!(wrong("[log-level]\n[[device]]\n").contains("log-level: a text"));
        assert!(parse("device-dir = '/x'\n").unwrap().devices.is_empty());
        assert!(wrong("config = 'x'\n[[device]]\n").contains("config is no setting"));
        let file = parse("[[device]]\n[[device]]\nsize = {}\n").unwrap();
        assert!(file.devices[0].is_ok() && file.devices[1].as_ref().unwrap_err().contains("size"));
    }
}
