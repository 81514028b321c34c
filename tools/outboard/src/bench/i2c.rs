//! `outboard bench i2c`: messages to a chip by the second.

use anyhow::{Result, ensure};
use outboard_virtio_defs::i2c::{F_ZERO_LENGTH_REQUEST, M_RD, OK, OutHdr, seven_bit};
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

use super::command::Command;
use super::figures::Figures;
use super::load::Load;
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::i2c_address::i2c_address;
use crate::size::Size;
use crate::target::Target;

/// Measure an I2C adapter: messages that read
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Bytes of each message: 1 to 8K
    #[arg(long, value_name = "SIZE", default_value = "1", help_heading = "I2C")]
    bs: Size,

    /// Read from the chip at this address, of 7 bits
    #[arg(long, value_name = "N", default_value = "0x50", value_parser = i2c_address, help_heading = "I2C")]
    address: u8,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(2)?);
        Ok(format!("i2c, {} from {:#04x}, {shared}", self.bs, self.address))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(2)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("bs".to_owned(), json!(self.bs.0));
            job.insert("address".to_owned(), json!(self.address));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!((1..=8 << 10).contains(&self.bs.0), "--bs is at least 1 and at most 8K");
        ensure!(self.shared.queues == 1, "an I2C adapter has one queue");
        Ok(())
    }

    fn data(&self) -> u64 {
        Command::memory(self.shared.depth, self.bs.0)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let header = OutHdr { addr: seven_bit(self.address).into(), padding: 0.into(), flags: M_RD.into() };
        let data = self.bs.0 as u32;
        // The status stands behind what was read.
        let status = (self.bs.0 as usize, &[OK][..]);
        let message = Command { bytes: header.as_bytes().to_vec(), answer: data + 1, status, data };
        message.measure(&self.shared, F_ZERO_LENGTH_REQUEST, session, load, progress)
    }
}
