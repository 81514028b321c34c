//! What is changed about a disk while it is in use: its size and its limits, by commands.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Chance;
use crate::control::command_to;

/// The image grows no further, in bytes.
const LARGEST: u64 = 512 << 20;

/// What was changed so far.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) sizes: u32,
    pub(crate) limits: u32,
}

impl Changes {
    /// One of both, by chance.
    pub(crate) fn one(&mut self, control: &Path, image: &Path, chance: &mut Chance) -> Result<()> {
        if chance.below(3) == 0 { self.grow(control, image, chance) } else { self.limit(control, chance) }
    }

    /// Adds up to a MiB.
    pub(crate) fn grow(&mut self, control: &Path, image: &Path, chance: &mut Chance) -> Result<()> {
        let size = image.metadata()?.len() + (1 + chance.below(256)) * 4096;
        if size > LARGEST {
            return Ok(());
        }
        let answer = command_to(control, "resize", &json!({ "size": size }))?;
        let now = answer.get("size").and_then(Value::as_u64).context("resize tells no size")?;
        ensure!(now == size, "resized to {size}, it has {now}");
        self.sizes += 1;
        Ok(())
    }

    fn limit(&mut self, control: &Path, chance: &mut Chance) -> Result<()> {
        let limits = match chance.below(4) {
            0 => json!({ "iops": 0, "bandwidth": 0 }),
            1 => json!({ "iops": 200 + chance.below(5000) }),
            2 => json!({ "bandwidth": (1 + chance.below(32)) << 20 }),
            _ => {
                json!({ "iops-write": 100 + chance.below(2000), "bandwidth-read": (1 + chance.below(64)) << 20 })
            }
        };
        command_to(control, "limits", &limits)?;
        self.limits += 1;
        Ok(())
    }

    /// No limit is left.
    pub(crate) fn free(&self, control: &Path) -> Result<()> {
        let none = ["iops", "iops-read", "iops-write", "bandwidth", "bandwidth-read", "bandwidth-write"];
        let none: serde_json::Map<String, Value> =
            none.into_iter().map(|name| (name.to_owned(), 0.into())).collect();
        command_to(control, "limits", &none.into()).map(drop)
    }
}
