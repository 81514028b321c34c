//! An entropy device (VIRTIO 1.3, 5.4): fills the guest's buffers from the kernel's generator or from a file. The
//! program is `vhost-user-rng`; `docs/devices/rng.md` tells its users what it promises.
//!
//! Of the guest come sizes only, and they are bounded here. The source is the user's; it may run dry.

use std::{num::NonZeroU64, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, Profile, TokenBucket, Uniform, defs::DeviceId};
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::rand::{GetRandomFlags, getrandom};

/// The most that one request gets, in bytes: a guest may post 4 GiB, and others wait behind it.
const MAX_REQUEST: usize = 64 << 10;
/// How long a source that has nothing is left alone.
const PAUSE: Duration = Duration::from_millis(10);

/// Where the entropy comes from, and how much the guest gets.
#[derive(clap::Args)]
pub struct RngOptions {
    /// Read this file, device or FIFO; a file over and over [default: the kernel's generator]
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Give the guest at most so many bytes a period [default: no limit]
    #[arg(long, value_name = "N", default_value_t = NonZeroU64::MAX, hide_default_value = true)]
    max_bytes: NonZeroU64,
    /// Length of the period in milliseconds
    #[arg(long, value_name = "MS", default_value = "1000")]
    period: NonZeroU64,
}

/// The data half of the entropy device.
#[derive(Clone)]
pub struct Rng {
    source: Option<Arc<OwnedFd>>,
    limit: TokenBucket,
}

impl Handler for Rng {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let wanted = chain.writable_len().min(MAX_REQUEST);
        match self.limit.claim(wanted as u64, cx.now()) {
            Ok(granted) => chain.truncate_writable(granted as usize),
            Err(delay) => return cx.wait_for(chain, delay),
        }
        let filled = match &self.source {
            None => chain.fill_with(|room| Ok(getrandom(room, GetRandomFlags::empty())?)),
            Some(source) => chain.fill_from(source),
        };
        match (filled, &self.source) {
            (Ok(0), Some(source)) if wanted > 0 => drop(seek(source, SeekFrom::Start(0))),
            (Err(error), _) => cx.warn("entropy source", error),
            _ => return cx.done(chain),
        }
        cx.wait_for(chain, PAUSE)
    }
}

/// The program `vhost-user-rng`.
pub struct VhostUserRng;

impl outboard_daemon::Program for VhostUserRng {
    const NAME: &'static str = "vhost-user-rng";
    const TYPE: &'static str = "rng";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "Entropy from the kernel's generator or a file";
    type Args = RngOptions;
    type Device = Uniform<Rng>;

    fn open(options: RngOptions) -> Result<Uniform<Rng>, DeviceError> {
        // A source that has nothing must hold up neither the start nor, later, the queue.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = options.source.map(|path| open(&path, flags, Mode::empty()).map(Arc::new)).transpose();
        let source = source.map_err(|error| DeviceError::host("cannot open the entropy source", error))?;
        // Empty to begin with: a guest gains nothing by resetting the device.
        let limit = TokenBucket::idle(options.max_bytes.get(), Duration::from_millis(options.period.get()));
        let profile = Profile::new(DeviceId::RNG, "rng").in_order().queue("requestq", 1024);
        Ok(Uniform::new(profile, Rng { source, limit }))
    }
}

#[cfg(test)]
mod tests;
