//! `outboard demo`: every back end as a process of its own, driven through the built-in front end over a real socket
//! and shared memory, with every byte compared.

mod blk;
mod console;
mod gpio;
mod i2c;
mod input;
mod net;
mod report;
mod rng;
mod scmi;
mod vsock;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use outboard_frontend::Format;

use crate::run::Device;
use crate::socket_dir::SocketDir;
use report::Report;

/// Start each back end, drive it through the built-in front end, and verify what it does
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this device; may be repeated [default: all]
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<Device>,

    /// How long each measurement takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Drives the devices. The status is 1 if anything was not as it should be.
pub(crate) fn run(args: &Args) -> ExitCode {
    let seconds =
        Duration::try_from_secs_f64(args.seconds).unwrap_or(Duration::MAX).min(Duration::from_secs(3600));
    let all = || {
        vec![
            Device::Rng,
            Device::Blk,
            Device::Net,
            Device::I2c,
            Device::Vsock,
            Device::Gpio,
            Device::Scmi,
            Device::Input,
            Device::Console,
        ]
    };
    let devices = if args.devices.is_empty() { all() } else { args.devices.clone() };
    let mut failed = false;
    let mut reports = Vec::new();
    for device in devices {
        for format in [Format::Split, Format::Packed] {
            let mut report = Report::new(device, format);
            if let Err(error) = drive(&mut report, device, format, seconds) {
                report.failed(&error);
                failed = true;
            }
            if !args.json {
                report.print();
            }
            reports.push(report);
        }
    }
    if args.json {
        report::print_json(&reports);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn drive(report: &mut Report, device: Device, format: Format, seconds: Duration) -> Result<()> {
    let dir = SocketDir::new()?;
    let socket = dir.path().join("socket");
    match device {
        Device::Input => input::drive(report, &socket, format, seconds),
        Device::Net => net::drive(report, &socket, format, seconds),
        Device::Console => console::drive(report, &socket, format, seconds),
        Device::Gpio => gpio::drive(report, &socket, format, seconds),
        Device::I2c => i2c::drive(report, &socket, format, seconds),
        Device::Rng => rng::drive(report, &socket, format, seconds),
        Device::Scmi => scmi::drive(report, &socket, format, seconds),
        Device::Blk => blk::drive(report, &socket, format, seconds),
        Device::Vsock => vsock::drive(report, &socket, format, seconds),
    }
}
