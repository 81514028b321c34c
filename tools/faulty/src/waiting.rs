//! What a connection sleeps on: messages, kicks, signals, the back channel, a state that is on its way, and the time
//! at which a request is to be done.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use outboard_vhost_user::transport::Transport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::connection::Connection;
use crate::faults::{Fault, die};
use crate::ring::Kick;
use crate::signals::Signals;
use crate::state::Transfer;

/// How often a device is asked what it has for the driver.
const PUSH: Duration = Duration::from_millis(10);

/// What poll found.
pub(crate) enum Source {
    Main,
    Stop,
    Rival,
    Refresh,
    Back,
    Transfer,
    Kick(usize),
}

impl Connection<'_> {
    /// Sleeps until something is to be done.
    pub(crate) fn wait(&self, signals: &Signals) -> io::Result<Vec<Source>> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut waited = vec![(Source::Refresh, readable(signals.refresh()))];
        if !self.faults.has(Fault::TermIgnored) {
            waited.push((Source::Stop, readable(signals.stop())));
        }
        waited.extend(self.rival.as_ref().map(|rival| (Source::Rival, readable(rival.as_fd()))));
        waited.extend(self.back.as_ref().map(|back| (Source::Back, readable(back.as_fd()))));
        waited.extend(self.transfer.as_ref().and_then(Transfer::wants).map(|fd| (Source::Transfer, fd)));
        for (index, ring) in self.rings.iter().enumerate() {
            if let Some(Kick::Event(fd)) = &ring.kick {
                waited.push((Source::Kick(index), readable(fd.as_fd())));
            }
        }
        waited.push((Source::Main, readable(self.wire.as_fd())));
        let (sources, mut polled): (Vec<Source>, Vec<PollFd<'_>>) = waited.into_iter().unzip();
        match poll(&mut polled, self.timeout().as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = polled.iter().map(|polled| !polled.revents().is_empty());
        Ok(sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)).collect())
    }

    fn timeout(&self) -> Option<Timespec> {
        let polled =
            self.rings.iter().any(|ring| ring.running.is_some() && matches!(ring.kick, Some(Kick::Polled)));
        let due = self.rings.iter().filter_map(|ring| ring.running.as_ref()?.due()).min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let push = self.device.pushes().then_some(PUSH);
        let soonest =
            [due, polled.then_some(Duration::from_micros(200)), push].into_iter().flatten().min()?;
        Timespec::try_from(soonest).ok()
    }

    pub(crate) fn kicked(&mut self, index: usize) {
        let Some(ring) = self.rings.get_mut(index) else { return };
        let Some(Kick::Event(fd)) = &ring.kick else { return };
        let mut value = [0; 8];
        let buffer = &mut [io::IoSliceMut::new(&mut value)];
        // Whether it blocks is the front end's affair. The offset that is none: the descriptor has no place.
        let read = rustix::io::preadv2(fd, buffer, u64::MAX, rustix::io::ReadWriteFlags::NOWAIT);
        match read {
            Ok(1..8) if self.faults.has(Fault::ShortKickCrashes) => die(),
            Ok(0) | Err(Errno::PIPE | Errno::CONNRESET | Errno::BADF) => {
                // Its other end is gone. It would be ready for ever.
                ring.kick = Some(Kick::Gone);
            }
            _ => {}
        }
        let idle = ring.running.as_ref().is_some_and(|running| !running.has_available());
        ring.idle_kicks = if idle { ring.idle_kicks + 1 } else { 0 };
        if ring.idle_kicks >= 10 && self.faults.has(Fault::IdleKicksCrash) {
            die();
        }
        self.process(index);
    }
}
