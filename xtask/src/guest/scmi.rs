//! SCMI: Linux's drivers for it, on our platform, and each message as its bytes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bench::Bench;
use super::fdt::{Node, Tree, bytes_of};
use super::i2c;
use crate::control::command_to;

/// What the tree refers to the performance protocol by: no other node of QEMU's has it.
const PERFORMANCE: u32 = 0x7fff_0001;

/// Everything that a kernel does by itself, and what it is told while it runs.
pub(super) fn scmi(bench: &mut Bench) -> Result<()> {
    bench.scmi(&[])?;
    let mut vm = bench.boot("scmi", Vec::new())?;
    vm.await_value("ready")?;
    let control = bench.control();
    // The guest waits for the last of them.
    set(&control, "sensor.motion.accel_X", -1500)?;
    set(&control, "sensor.board", 55_500)?;
    vm.await_value("listening")?;
    set(&control, "sensor.board", 71_000)?;
    set(&control, "clock.uart.rate", 96_000_000)?;
    let heard = command_to(&control, "request", &json!({ "state": "shutdown" }))?;
    ensure!(heard == json!({ "heard": true }), "the guest does not listen: {heard}");
    vm.await_value("failing")?;
    command_to(&control, "fail", &json!({ "point": "sensor.board" }))?;
    vm.finish()?;
    let points = command_to(&control, "points", &json!({}))?;
    let expected = [
        ("power.gpu", 1 << 30),
        ("performance.cluster.level", 600_000),
        ("performance.cluster.max", 1_200_000),
        ("reset.ethernet", 1),
        ("voltage.vdd.mode", 0),
        ("voltage.vdd.microvolts", 825_000),
        ("clock.uart.running", 0),
    ];
    for (point, value) in expected {
        let is = points.get(point).and_then(Value::as_i64);
        ensure!(is == Some(value), "{point} is {is:?}, not {value}, after what the guest did");
    }
    bench.stop_back_ends()
}

/// The back end over attributes that a kernel has: it runs inside the guest.
pub(super) fn host(bench: &mut Bench) -> Result<()> {
    i2c::plug(bench, &["thermometer@0x48"])?;
    let mut vm = bench.boot("scmi-host", Vec::new())?;
    vm.await_value("armed")?;
    i2c::temperature(bench, 60.0)?;
    vm.finish()
}

fn set(control: &Path, point: &str, value: i64) -> Result<()> {
    command_to(control, "set", &json!({ "point": point, "value": value })).map(drop)
}

/// The machine's tree with what Linux needs to find the device and to use what it has.
pub(super) fn device_tree(blob: &[u8]) -> Result<Vec<u8>> {
    let mut tree = Tree::parse(blob)?;
    let protocol = |number: u32| Node::new(format!("protocol@{number:x}")).words("reg", &[number]);
    let regulator = Node::new("regulator@0").words("reg", &[0]).text("regulator-name", "vdd");
    let regulators =
        Node::new("regulators").words("#address-cells", &[1]).words("#size-cells", &[0]).child(regulator);
    let scmi = Node::new("scmi")
        .text("compatible", "arm,scmi-virtio")
        .words("#address-cells", &[1])
        .words("#size-cells", &[0])
        .child(protocol(0x11).words("#power-domain-cells", &[1]))
        .child(protocol(0x12))
        .child(protocol(0x13).words("#clock-cells", &[1]).words("phandle", &[PERFORMANCE]))
        .child(protocol(0x14).words("#clock-cells", &[1]))
        .child(protocol(0x15).words("#thermal-sensor-cells", &[1]))
        .child(protocol(0x16).words("#reset-cells", &[1]))
        .child(protocol(0x17).child(regulators));
    tree.add(&Node::new("firmware").child(scmi))?;
    tree.set("cpu@0", "clocks", &bytes_of(&[PERFORMANCE, 0])).context("the processor")?;
    tree.into_blob()
}
