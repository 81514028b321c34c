//! What the demonstration says: per device and ring format, what was verified, and how fast it was.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use outboard_frontend::Format;
use serde::Serialize;

use crate::run::Device;

/// One device over one ring format.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    device: &'static str,
    ring: &'static str,
    verified: Vec<String>,
    measured: Vec<Figure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A rate.
#[derive(Debug, Serialize)]
struct Figure {
    what: &'static str,
    requests_per_second: f64,
    bytes_per_second: f64,
}

impl Report {
    pub(super) fn new(device: Device, format: Format) -> Self {
        let ring = match format {
            Format::Split => "split",
            Format::Packed => "packed",
        };
        Self { device: device.name(), ring, verified: Vec::new(), measured: Vec::new(), error: None }
    }

    /// Something was compared and found right.
    pub(super) fn verified(&mut self, what: impl Into<String>) {
        self.verified.push(what.into());
    }

    /// `requests` of `bytes` each took `seconds`.
    pub(super) fn measured(&mut self, what: &'static str, requests: u64, bytes: usize, seconds: f64) {
        let requests_per_second = requests as f64 / seconds;
        let bytes_per_second = requests_per_second * bytes as f64;
        self.measured.push(Figure { what, requests_per_second, bytes_per_second });
    }

    /// Something was wrong: nothing more follows.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.error = Some(format!("{error:#}"));
    }

    pub(super) fn print(&self) {
        println!("{}, {} ring", self.device, self.ring);
        for what in &self.verified {
            println!("  ok       {what}");
        }
        for Figure { what, requests_per_second, bytes_per_second } in &self.measured {
            let (requests, bytes) = (requests_per_second / 1e3, bytes_per_second / 1e6);
            println!("  measured {what:<42} {requests:>8.1} kreq/s {bytes:>9.1} MB/s");
        }
        if let Some(error) = &self.error {
            println!("  FAILED   {error}");
        }
    }
}

/// Prints all reports as one JSON object.
pub(super) fn print_json(reports: &[Report]) {
    println!("{}", serde_json::json!({ "reports": reports }));
}
