//! `outboard bench input`: reports of a simulated device by the second, from the socket that drives it to the driver; or lights
//! that are switched.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use outboard_virtio_defs::input::{Config, Event};
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

use super::bytes::{Outward, slots};
use super::figures::Figures;
use super::input_drive::{Drive, Reports};
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::peer;
use crate::target::Target;

/// Bytes of an event.
const EVENT: usize = size_of::<Event>();
const EV_LED: u16 = 0x11;
const LED_CAPSL: u16 = 1;
/// Commands that may wait for a device of ours.
const MOST_COMMANDS: u16 = 64;

const EXAMPLES: &str = "\
Examples:
  outboard bench input --drive /tmp/keys.sock -- vhost-user-input --drive /tmp/keys.sock
  outboard bench input /run/keyboard.sock

With --drive, a request is a report: a command on the driving socket, and so many movements of a mouse, with the report's end,
which come to the driver. Without, it is a light that is switched.";

/// Measure an input device: reports that come, or lights that are switched
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// The socket that drives a device of ours which simulates a mouse
    #[arg(long, value_name = "SOCKET", help_heading = "Input")]
    drive: Option<PathBuf>,

    /// Movements of each report
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=500),
          requires = "drive", help_heading = "Input")]
    events: u16,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(1)?);
        let what = match (&self.drive, self.events) {
            (None, _) => "lights".to_owned(),
            (Some(_), 1) => "reports of a movement".to_owned(),
            (Some(_), events) => format!("reports of {events} movements"),
        };
        Ok(format!("input, {what}, {shared}"))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(1)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("drive".to_owned(), json!(self.drive));
            job.insert("events".to_owned(), json!(self.drive.as_ref().map(|_| self.events)));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!(self.shared.queues == 1, "an input device has one queue each way");
        ensure!(
            self.drive.is_none() || self.shared.depth <= MOST_COMMANDS,
            "--depth is at most {MOST_COMMANDS} with --drive"
        );
        Ok(())
    }

    fn data(&self) -> u64 {
        // For events, as many as the ring has entries.
        (u64::from(self.shared.depth) + (1 << 15)) * 64
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { mut frontend, back } = session;
        let size = self.shared.queue_size(1)?;
        frontend.agree(&self.shared.wishes(2, size))?;
        let (mut events, mut status) = (frontend.start(0, size)?, frontend.start(1, size)?);
        frontend.driver_ok()?;
        // When that is answered, the device has begun.
        frontend.config::<Config>()?;
        let figures = match &self.drive {
            Some(path) => {
                let timeout = load.pace.timeout;
                let stream = peer::connect(path, timeout);
                let stream = stream.with_context(|| format!("cannot connect to {}", path.display()))?;
                let drive = Drive::new(stream, timeout)?;
                let buffers = slots(&mut frontend, size, EVENT)?;
                let lane = Reports::new(&mut events, buffers, drive, self.events)?;
                run(&mut [lane], load, back, progress)?
            }
            None => {
                let lights = slots(&mut frontend, self.shared.depth, EVENT)?;
                for (light, on) in lights.iter().zip([1_u32, 0].into_iter().cycle()) {
                    let event = Event { kind: EV_LED.into(), code: LED_CAPSL.into(), value: on.into() };
                    light.write_from(0, event.as_bytes())?;
                }
                run(&mut [Outward::new(&mut status, lights)], load, back, progress)?
            }
        };
        frontend.reset([events, status])?;
        Ok(figures)
    }
}
