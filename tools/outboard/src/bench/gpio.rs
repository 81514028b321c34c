//! `outboard bench gpio`: levels of a line by the second.

use anyhow::{Result, ensure};
use outboard_virtio_defs::gpio::{GET_VALUE, STATUS_OK};
use serde_json::{Value, json};

use super::command::Command;
use super::figures::Figures;
use super::load::Load;
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::target::Target;

/// Measure a GPIO controller: levels that are asked for
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Ask for this line
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "GPIO")]
    line: u16,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(2)?);
        Ok(format!("gpio, the level of line {}, {shared}", self.line))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(2)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("line".to_owned(), json!(self.line));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!(self.shared.queues == 1, "a GPIO controller has one queue for requests");
        Ok(())
    }

    fn data(&self) -> u64 {
        Command::memory(self.shared.depth, 64)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let [kind, line] = [GET_VALUE, self.line].map(u16::to_le_bytes);
        let bytes = [&kind[..], &line, &[0; 4]].concat();
        let request = Command { bytes, answer: 2, status: (0, &[STATUS_OK]), data: 1 };
        request.measure(&self.shared, 0, session, load, progress)
    }
}
