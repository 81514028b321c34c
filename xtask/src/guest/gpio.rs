//! Scenarios with a GPIO controller.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bench::Bench;
use crate::control::command_to;

/// A simulated chip, and Linux's driver for it.
pub(super) fn simulated(bench: &mut Bench) -> Result<()> {
    let options = ["--simulate=8", "--lines=0=relay,1=sense,2-7", "--wire=0:1", "--read-only=3"];
    bench.plug("gpio", &options.map(str::to_owned))?;
    command_to(&bench.control(), "set", &json!({ "line": 2, "value": 1 })).context("line 2")?;
    let mut vm = bench.boot("gpio", vec![("OUTBOARD_PACKED", u8::from(bench.packed()).to_string())])?;
    vm.finish()?;
    let line = command_to(&bench.control(), "get", &json!({ "line": 0 }))?;
    ensure!(
        line.get("direction").is_some_and(|direction| direction == "none"),
        "the guest has let go of the line, and it is {line}"
    );
    bench.stop_back_ends()
}

/// The back end over a chip that a kernel has: it runs inside the guest.
pub(super) fn host(bench: &mut Bench) -> Result<()> {
    bench.boot("gpio-host", Vec::new())?.finish()
}
