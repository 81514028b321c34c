//! Lists of numbers in options: which ones, and what they are called in the guest. The command line is trusted; what makes no
//! sense in it is told.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Numbers as in `0-3,8`: one or a range between commas. Order and repetition are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Whether `number` is among them.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    /// Each of them, as they stand.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(first, last)| u64::from(last - first) + 1).sum()
    }

    /// The ranges, first and last included.
    #[must_use]
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim().split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A number, or a range of them.
fn range(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first)?, number(last)?) {
        (first, last) if first <= last => Ok((first, last)),
        _ => Err(format!("{text:?} is a range that goes down")),
    }
}

/// A number, in decimal or in hexadecimal with 0x.
fn number(text: &str) -> Result<u32, String> {
    let digits = |text: &str| text.starts_with(|first: char| first.is_ascii_hexdigit());
    let number = match text.strip_prefix("0x") {
        Some(text) => digits(text).then(|| u32::from_str_radix(text, 16)),
        None => digits(text).then(|| text.parse()),
    };
    number.and_then(Result::ok).ok_or_else(|| format!("{text:?} is no number and no range such as 0-3,8"))
}

/// Numbers of the host in the guest's order, some of them under another name: `3=door,5,7-9`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renamed(Vec<(u32, Option<String>)>);

impl Renamed {
    /// Each with its name, if it got one, in the guest's order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Option<&str>)> {
        self.0.iter().map(|(number, name)| (*number, name.as_deref()))
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Renamed {
    type Err = String;

    /// No number and no name may be there twice.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        let (mut numbers_seen, mut names_seen) = (HashSet::new(), HashSet::new());
        for item in text.trim().split(',') {
            let (numbers, name) = match item.split_once('=') {
                None => (range(item)?, None),
                Some((of, name)) => ((number(of)?, number(of)?), Some(name)),
            };
            if name.is_some_and(|name| name.is_empty() || !names_seen.insert(name)) {
                return Err(format!("{item:?}: a name, and each only once"));
            }
            for number in numbers.0..=numbers.1 {
                if list.len() >= MOST {
                    return Err(format!("more than {MOST} numbers"));
                }
                if !numbers_seen.insert(number) {
                    return Err(format!("{number} is there twice"));
                }
                list.push((number, name.map(str::to_owned)));
            }
        }
        Ok(Self(list))
    }
}

/// The longest list whose numbers have names.
const MOST: usize = 65536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_what_was_written() {
        for (text, numbers) in [("0", vec![0]), ("0-3,8", vec![0, 1, 2, 3, 8]), ("5,1-2,5", vec![5, 1, 2, 5])]
        {
            let ranges: Ranges = text.parse().unwrap();
            assert_eq!(ranges.iter().collect::<Vec<_>>(), numbers);
            assert_eq!((ranges.to_string(), ranges.count()), (text.to_owned(), numbers.len() as u64));
            assert!(numbers.iter().all(|number| ranges.contains(*number)) && !ranges.contains(4));
        }
        let all: Ranges = "0-4294967295".parse().unwrap();
        assert_eq!((all.count(), all.contains(u32::MAX)), (1 << 32, true));
        assert_eq!("0x50-0x57".parse::<Ranges>().unwrap().ranges(), [(0x50, 0x57)]);
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for text in ["", ",", "1,", "a", "-1", "1-", "3-1", "0x", "0x+1", "+1", "1 2", "4294967296", "1-2-3"]
        {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
    }

    #[test]
    fn renamed_numbers_keep_their_order_and_their_names() {
        let list: Renamed = "3=door,5,7-9,0x10=last".parse().unwrap();
        let expected = [(3, Some("door")), (5, None), (7, None), (8, None), (9, None), (16, Some("last"))];
        assert_eq!(list.iter().collect::<Vec<_>>(), expected);
        for text in ["", "1,1", "1-3,2", "1=a,2=a", "1=", "1-2=a", "=a", "0-65536"] {
            assert!(text.parse::<Renamed>().is_err(), "{text}");
        }
    }
}
