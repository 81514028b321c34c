//! `outboard bench scmi`: readings of a sensor by the second.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::command::Command;
use super::figures::Figures;
use super::load::Load;
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::target::Target;

/// Measure a platform that speaks SCMI: readings of a sensor, or versions
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Read this sensor (SENSOR_READING_GET) [default: ask for the version of the base protocol]
    #[arg(long, value_name = "ID", help_heading = "SCMI")]
    sensor: Option<u32>,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(2)?);
        Ok(format!(
            "scmi, {}, {shared}",
            self.sensor.map_or("versions".to_owned(), |id| format!("sensor {id}"))
        ))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(2)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("sensor".to_owned(), json!(self.sensor));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!(self.shared.queues == 1, "SCMI has one queue for commands");
        Ok(())
    }

    fn data(&self) -> u64 {
        Command::memory(self.shared.depth, 64)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        // The protocol and the message stand in the header: Arm's DEN0056, 4.1.2.
        let (words, data) = match self.sensor {
            Some(id) => (vec![0x15 << 10 | 6, id, 0], 16),
            None => (vec![0x10 << 10], 4),
        };
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // Behind the header and the status.
        let command = Command { bytes, answer: 8 + data, status: (4, &[0; 4]), data };
        command.measure(&self.shared, 0, session, load, progress)
    }
}
