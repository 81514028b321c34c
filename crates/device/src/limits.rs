//! Limits per second, as options and commands of the control socket write them, and the buckets that keep them.
//!
//! Who writes them is trusted. Buckets are never changed: a change of the limits makes new ones, in a new set.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{DeviceError, SharedBucket};

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Tokens per second; 0: no limit.
    pub rate: u64,
    /// How many of them at once after a pause, at least 1.
    pub burst: u64,
}

impl Limit {
    /// Reads `RATE`, or `RATE:BURST`; without a burst, it is a tenth of the rate. `number` reads each of them.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn parse(text: &str, number: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (rate, burst) = match text.split_once(':') {
            Some((rate, burst)) => (number(rate)?, Some(number(burst)?)),
            None => (number(text)?, None),
        };
        if burst == Some(0) {
            return Err("with a burst of 0 nothing would pass".to_owned());
        }
        Ok(Self { rate, burst: burst.unwrap_or(rate / 10).max(1) })
    }

    fn bucket(self, empty: bool) -> Option<Arc<SharedBucket>> {
        let make = if empty { SharedBucket::empty } else { SharedBucket::new };
        (self.rate > 0).then(|| Arc::new(make(self.rate, self.burst)))
    }
}

/// A device's limits in force, in an order of its own; `None`: no limit.
#[derive(Clone, Debug)]
pub struct LimitSet<const COUNT: usize>([Option<Arc<SharedBucket>>; COUNT]);

impl<const COUNT: usize> LimitSet<COUNT> {
    /// Limits of which the bursts are there at once.
    #[must_use]
    pub fn new(limits: [Option<Limit>; COUNT]) -> Self {
        Self(limits.map(|limit| limit?.bucket(false)))
    }

    /// The buckets that keep them.
    #[must_use]
    pub const fn buckets(&self) -> &[Option<Arc<SharedBucket>>; COUNT] {
        &self.0
    }

    /// These limits with those that `arguments` name changed, as a command gives them: a number, a text that `parse` reads
    /// for the limit of that place, or null for none. `names` are in the order of the limits.
    ///
    /// # Errors
    /// A limit that there is none of, or a value that is none.
    pub fn changed(
        &self,
        names: &[&str; COUNT],
        arguments: &Value,
        parse: impl Fn(usize, &str) -> Result<Limit, String>,
    ) -> Result<Self, DeviceError> {
        let none = Map::new();
        let mut set = self.clone();
        for (name, value) in arguments.as_object().unwrap_or(&none) {
            let place = names.iter().zip(&mut set.0).enumerate().find(|(_, (known, _))| *known == name);
            let (at, (_, bucket)) = place.ok_or_else(|| {
                DeviceError::Invalid(format!("no limit is named {name}; there are {}", names.join(", ")))
            })?;
            let limit = match value {
                Value::Null => Ok(Limit { rate: 0, burst: 1 }),
                Value::String(text) => parse(at, text),
                Value::Number(number) => parse(at, &number.to_string()),
                _ => Err("RATE or RATE:BURST".to_owned()),
            };
            let limit = limit.map_err(|reason| DeviceError::Invalid(format!("{name}: {reason}")))?;
            let before = bucket.as_deref().map(|bucket| (bucket.rate(), bucket.burst()));
            if before != Some((limit.rate, limit.burst)) {
                // Who changes a limit often does not hand out bursts.
                *bucket = limit.bucket(true);
            }
        }
        Ok(set)
    }

    /// The limits, as [`LimitSet::changed`] would take them.
    #[must_use]
    pub fn show(&self, names: &[&str; COUNT]) -> Value {
        let shown = names.iter().zip(&self.0).map(|(name, bucket)| {
            let limit = bucket.as_deref().map(|bucket| format!("{}:{}", bucket.rate(), bucket.burst()));
            ((*name).to_owned(), limit.into())
        });
        Value::Object(shown.collect())
    }
}

/// No limits.
impl<const COUNT: usize> Default for LimitSet<COUNT> {
    fn default() -> Self {
        Self([const { None }; COUNT])
    }
}
