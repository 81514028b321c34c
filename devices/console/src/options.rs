//! The program's own options. The command line is trusted; what makes no sense in it is told.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use outboard_daemon::{Given, Pairs};

use crate::host::{FARS, To};

/// The most ports there can be: each takes two queues, as the control messages do.
pub(crate) const MOST_PORTS: u16 = 31;
/// Bytes of a port's name.
const NAME_MAX: usize = 64;

/// The guest's ports.
#[derive(Clone, Debug, clap::Args)]
pub struct ConsoleOptions {
    /// What is at the far end of port 0, the guest's console: ring[:BYTES], unix:PATH, unix-connect:PATH,
    /// tcp:ADDRESS:PORT,token-file=FILE, pty[:LINK], stdio, file:PATH[,max=BYTES,keep=N], syslog[:TAG], echo or null
    ///
    /// Also of it: record=FILE (a recording as asciinema makes it) and record-input (of what is typed as well).
    #[arg(long, value_name = "FAR[,KEY=VALUE...]", default_value = "ring")]
    pub console: PortSpec,

    /// One more port: what the guest knows it by, what is at its far end, as above, and whether it is a console [can be given
    /// several times]
    #[arg(long, value_name = "name=NAME,to=FAR[,console][,KEY=VALUE...]", conflicts_with = "single")]
    pub port: Vec<PortSpec>,

    /// The size of consoles, until they are told another
    #[arg(long, value_name = "COLUMNSxROWS", default_value = "80x24")]
    pub size: Size,

    /// Have one port and no control messages
    #[arg(long)]
    pub single: bool,

    /// How many ports there may be, those that are added later included [default: those that are given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_PORTS)), conflicts_with = "single")]
    pub max_ports: Option<u16>,

    /// Tell sizes rows first, as Linux before 6.15 expects them although VIRTIO has the columns first
    #[arg(long, conflicts_with = "single")]
    pub rows_first: bool,

    /// Entries of each queue
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(2..=32768))]
    pub queue_size: u16,
}

/// The size of a console, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A port as options and commands have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// What the guest knows it by; empty if by nothing.
    pub name: String,
    /// Whether it is a console.
    pub console: bool,
    /// What is at its far end.
    pub(crate) to: To,
    /// Where what passes is recorded.
    pub(crate) record: Option<PathBuf>,
    /// What comes from the far end, too.
    pub(crate) record_input: bool,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x').map(|(cols, rows)| (cols.parse(), rows.parse()));
        match numbers {
            Some((Ok(cols), Ok(rows))) if cols > 0 && rows > 0 => Ok(Self { cols, rows }),
            _ => Err("columns and rows, such as 80x24".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.cols, self.rows)
    }
}

impl FromStr for PortSpec {
    type Err = String;

    /// Reads `FAR` or `to=FAR`, and further keys with their values, between commas; a comma in a value is doubled.
    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = Pairs::split(OsStr::new(text))?;
        let mut items = Vec::new();
        for (at, (key, given)) in pairs.iter().enumerate() {
            items.push(match given {
                Given::Alone | Given::Switch(_) if at == 0 && To::is_one(key) => ("to", key.to_owned()),
                Given::Alone | Given::Switch(_) => (key, String::new()),
                Given::Text(text) => (key, text.to_str().ok_or("a text is needed")?.to_owned()),
            });
        }
        let mut take = |wanted: &str| {
            let at = items.iter().position(|(key, _)| *key == wanted)?;
            Some(items.remove(at).1)
        };
        let name = take("name").unwrap_or_default();
        if name.len() > NAME_MAX || name.contains('\0') {
            return Err(format!("a name has at most {NAME_MAX} bytes"));
        }
        let to =
            take("to").ok_or_else(|| format!("to=FAR is missing: what is at the far end, one of {FARS}"))?;
        let to = To::parse(&to, &mut take)?;
        let record = take("record").map(PathBuf::from);
        let mut flag = |key| match take(key).as_deref() {
            None => Ok(false),
            Some("") => Ok(true),
            Some(_) => Err(format!("{key} takes no value")),
        };
        let (console, record_input) = (flag("console")?, flag("record-input")?);
        match items.first() {
            Some((key, _)) => Err(format!("{key:?} is no key of this far end, or is there twice")),
            None if record_input && record.is_none() => Err("record-input goes with record=FILE".to_owned()),
            None => Ok(Self { name, console, to, record, record_input }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_every_kind_is_read_and_shown_alike() {
        for text in [
            "ring:65536",
            "echo",
            "null",
            "stdio",
            "pty",
            "pty:/run/x",
            "unix:/a b",
            "unix-connect:/a:b",
            "tcp:127.0.0.1:1",
            "file:/x",
            "syslog:vm1",
        ] {
            let token = if text.starts_with("tcp") { ",token-file=/t" } else { "" };
            let spec: PortSpec = format!("{text}{token}").parse().unwrap();
            assert_eq!(spec.to.to_string(), text);
            assert_eq!(Ok(spec), format!("to={text}{token}").parse());
        }
        let spec: PortSpec = "name=a,,b,to=file:/x=y,max=4096,keep=2,console,record=/c".parse().unwrap();
        assert_eq!((&*spec.name, spec.console, spec.record), ("a,b", true, Some("/c".into())));
    }

    #[test]
    fn port_that_makes_no_sense_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "key is missing"),
            ("name=x", "to=FAR"),
            ("to=udp:1", "ring[:BYTES]"),
            ("ring:1", "4096"),
            ("unix:", "ring[:BYTES]"),
            ("tcp:127.0.0.1:1", "token-file"),
            ("tcp:192.0.2.1:1,token-file=/t", "loopback"),
            ("null,token-file=/t", "token-file"),
            ("null,max=4096", "max"),
            ("file:/x,max=12", "4096"),
            ("file:/x,keep=2", "max"),
            ("syslog:a b", "letters"),
            ("syslog:a:b", "letters"),
            ("null,console=yes", "no value"),
            ("null,record-input", "record=FILE"),
            ("null,to=null,to=null", "twice"),
            ("null,cols=3", "cols"),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("name={},to=null", "x".repeat(65));
        assert!(long.parse::<PortSpec>().unwrap_err().contains("64 bytes"));
        for text in ["", "80", "80x", "0x24", "80x0", "70000x1", "80x24x1"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
