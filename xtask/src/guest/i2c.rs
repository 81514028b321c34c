//! Scenarios with an I2C adapter.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bench::Bench;
use crate::control::command_to;

/// Chips that are simulated, and Linux's drivers for them.
pub(super) fn simulated(bench: &mut Bench) -> Result<()> {
    plug(bench, &["eeprom@0x50,file=eeprom", "thermometer@0x48", "registers:16@0x20"])?;
    let mut vm = bench.boot("i2c", vec![("OUTBOARD_PACKED", u8::from(bench.packed()).to_string())])?;
    vm.finish()?;
    let status = command_to(&bench.control(), "status", &json!({}))?;
    let text = status.to_string();
    ensure!(text.contains(r#""address":"0x51""#), "nothing was counted of a chip that there is not: {text}");
    bench.stop_back_ends()?;
    let inside = vm.value("eeprom")?;
    let outside = bench.digest_of(&bench.directory().join("eeprom"))?;
    ensure!(inside == outside, "the guest wrote other bytes than the EEPROM has");
    Ok(())
}

/// The back end over adapters that a kernel has: it runs inside the guest.
pub(super) fn host(bench: &mut Bench) -> Result<()> {
    plug(bench, &["eeprom@0x50", "thermometer@0x48", "registers:16@0x20"])?;
    bench.boot("i2c-host", Vec::new())?.finish()
}

/// Plugs in an adapter with these parts, the thermometer at 21.5 degrees.
pub(super) fn plug(bench: &mut Bench, parts: &[&str]) -> Result<()> {
    let mut options = Vec::new();
    for part in parts {
        options.extend(["--simulate".to_owned(), part.to_string()]);
    }
    bench.plug("i2c", &options)?;
    temperature(bench, 21.5)
}

/// It is so warm at the thermometer.
pub(super) fn temperature(bench: &Bench, celsius: f64) -> Result<()> {
    let temperature = json!({ "address": "0x48", "celsius": celsius });
    command_to(&bench.control(), "temperature", &temperature).context("the thermometer").map(drop)
}
