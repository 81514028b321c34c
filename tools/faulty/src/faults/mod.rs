//! What can be spoiled, and the means to do it.
//!
//! # A new fault takes two lines
//! 1. One line in [`table`]: its variant, what it does in a sentence, and the checks that must fail with it. Its name
//!    on the command line is the variant in kebab case: `AckNever` is `--fault ack-never`.
//! 2. One line where it takes effect, in a branch of its own: `if self.faults.has(Fault::AckNever)`. [`Faults`] is a
//!    small `Copy` set; whoever can be faulty carries one. [`die`] is for faults that crash.
//!
//! The checks that a fault names fail with it when the program is a disk; those of `rng.` when it is an entropy device,
//! those of `net.` when it is a network interface, those of `i2c.` when it is an I2C adapter, those of `gpio.` when it is a
//! GPIO controller, those of `input.` when it is an input device, those of `scmi.` when it speaks that, those of `console.` when
//! it is a console device, those of `vsock.` when it has sockets, and `blk.read-only` with `--read-only`.
//!
//! Some checks start the program with a command line of their own. So faults may be named in the environment too, in
//! `VHOST_USER_FAULTY`, with commas between them.
//!
//! A fault does one thing wrong and leaves the rest right, so that it shows which check found it. The command line
//! chooses them; no peer can.

mod table;

use std::ffi::OsString;

pub(crate) use table::Fault;
use table::TABLE;

/// Where faults may be named too.
const ENVIRONMENT: &str = "VHOST_USER_FAULTY";

/// A line of the table.
struct Entry {
    fault: Fault,
    variant: &'static str,
    /// One sentence.
    does: &'static str,
    /// The ids of the checks that fail with it; none where no check looks for it, or the specification allows it.
    fails: &'static [&'static str],
}

impl Entry {
    /// The variant in kebab case.
    fn name(&self) -> String {
        let mut name = String::new();
        for letter in self.variant.chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

/// A set of faults: a bit for each of the table, however many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults([u64; TABLE.len().div_ceil(u64::BITS as usize)]);

impl Faults {
    pub(crate) fn new(faults: &[Fault]) -> Self {
        Self::default().with(faults)
    }

    /// These and those.
    pub(crate) fn with(mut self, faults: &[Fault]) -> Self {
        for &fault in faults {
            if let Some(word) = self.0.get_mut(fault as usize / 64) {
                *word |= 1 << (fault as usize % 64);
            }
        }
        self
    }

    /// Whether this is to be done wrong.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.get(fault as usize / 64).is_some_and(|word| word & 1 << (fault as usize % 64) != 0)
    }
}

/// Ends the process as a crash does.
pub(crate) fn die() -> ! {
    std::process::abort()
}

/// The fault with this name.
pub(crate) fn parse(name: &str) -> Result<Fault, String> {
    let found = TABLE.iter().find(|entry| entry.name() == name);
    found.map(|entry| entry.fault).ok_or_else(|| "there is no such fault; --list-faults shows all".to_owned())
}

/// The faults that the environment names, and those among arguments that are not parsed otherwise; what is not one is
/// passed over.
pub(crate) fn among(args: &[OsString]) -> Faults {
    let texts: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let behind =
        texts.windows(2).filter(|pair| pair.first() == Some(&"--fault")).filter_map(|pair| pair.last());
    let within = texts.iter().filter_map(|arg| arg.strip_prefix("--fault="));
    let environment = std::env::var(ENVIRONMENT).unwrap_or_default();
    let names = behind.copied().chain(within).chain(environment.split(','));
    let found: Vec<Fault> = names.filter_map(|name| parse(name).ok()).collect();
    Faults::new(&found)
}

/// The table as JSON: `[{"name": .., "does": .., "fails": [..]}, ..]`.
pub(crate) fn list() -> String {
    let entry =
        |entry: &Entry| serde_json::json!({ "name": entry.name(), "does": entry.does, "fails": entry.fails });
    let all: Vec<_> = TABLE.iter().map(entry).collect();
    format!("{:#}", serde_json::Value::from(all))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn fault_is_found_by_the_name_that_is_listed() {
        for entry in TABLE {
            assert_eq!(parse(&entry.name()), Ok(entry.fault));
        }
        assert!(parse("AckNever").is_err());
        assert_eq!(parse("ack-never"), Ok(Fault::AckNever));
    }

    #[test]
    fn set_has_what_was_put_in_and_nothing_else() {
        for one in TABLE {
            let set = Faults::new(&[one.fault]);
            assert!(TABLE.iter().all(|other| set.has(other.fault) == (other.fault == one.fault)));
        }
    }

    #[test]
    fn fault_of_the_table_takes_effect_somewhere() {
        let mut source = String::new();
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        for file in std::fs::read_dir(directory).unwrap() {
            let path = file.unwrap().path();
            source += &if path.is_file() { std::fs::read_to_string(path).unwrap() } else { String::new() };
        }
        for entry in TABLE {
            let name = format!("Fault::{}", entry.variant);
            let mut used = source.split(&name).skip(1);
            let looks = used.any(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()));
            assert!(looks, "nothing looks at {}", entry.variant);
        }
    }

    #[test]
    fn faults_among_other_arguments_are_found_in_both_forms() {
        let args = ["x", "--nonsense", "--fault", "ack-never", "--fault=ack-twice", "--fault", "other"];
        let set = among(&args.map(OsString::from));
        assert!(set.has(Fault::AckNever) && set.has(Fault::AckTwice) && !set.has(Fault::AckUnasked));
    }

    #[test]
    fn fault_says_in_a_sentence_what_it_does() {
        for Entry { variant, does, .. } in TABLE {
            assert!(does.ends_with('.') && does.starts_with(|first: char| first.is_uppercase()), "{variant}");
        }
    }
}
