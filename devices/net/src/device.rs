//! The control half: the interface's identity, its configuration space, and what its handlers share.
//!
//! Of the front end come the features that the driver agreed to, and nothing else.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outboard_device::defs::DeviceId;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{Config, S_LINK_UP};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Profile};
use zerocopy::IntoBytes;

use crate::config::{config, features, longest};
use crate::counters::{self, PairCounters};
use crate::host::{self, Backing, Terms};
use crate::options::{MIN_MTU, NetOptions};
use crate::pair::PairHandler;

/// How often the host is asked whether it has a link.
const LOOK: Duration = Duration::from_secs(1);

/// A network interface.
pub struct Net {
    profile: Profile,
    config: Config,
    options: NetOptions,
    host: Box<dyn Backing>,
    shared: Arc<Shared>,
    /// The longest packet, if there is a limit: of the options, or of the front end.
    mtu: Option<u16>,
    /// Somebody may have taken the link away, at the control socket.
    wanted: bool,
    /// The host has a link.
    carrier: bool,
}

/// What handlers look at with each packet, and the control half changes.
#[derive(Debug)]
pub(crate) struct Shared {
    link: AtomicBool,
    /// Of each pair.
    counters: Vec<Arc<PairCounters>>,
}

impl Shared {
    /// Whether packets go through. It orders nothing else.
    pub(crate) fn has_link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    /// Where a pair counts.
    pub(crate) fn counters(&self, pair: u16) -> Arc<PairCounters> {
        self.counters.get(usize::from(pair)).map(Arc::clone).unwrap_or_default()
    }

    fn pairs(&self) -> impl Iterator<Item = &PairCounters> + Clone {
        self.counters.iter().map(Arc::as_ref)
    }
}

impl Net {
    /// Opens what is behind the interface.
    ///
    /// # Errors
    /// Options that do not go together; what the host refuses.
    pub fn open(options: &NetOptions) -> Result<Self, DeviceError> {
        Ok(Self::before(host::open(options)?, options))
    }

    /// The interface before what is opened already.
    pub(crate) fn before(host: Box<dyn Backing>, options: &NetOptions) -> Self {
        let features = features(options, host.offers());
        let shape = Profile::new(DeviceId::NET, "net").feature(features.0).in_order().network();
        // VIRTIO 1.3, 5.1.2: 2i receives, 2i + 1 transmits. Each pair is on a thread of its own.
        let profile = (0..options.pairs).fold(shape, |profile, _| {
            profile.parallel_queues("receiveq", options.queue_size, 1).queue("transmitq", options.queue_size)
        });
        let counters = (0..options.pairs).map(|_| Arc::default()).collect();
        let shared = Arc::new(Shared { link: AtomicBool::new(true), counters });
        let (config, mtu, options) = (config(options), options.mtu, options.clone());
        let mut net = Self { profile, config, options, host, shared, mtu, wanted: true, carrier: true };
        net.look();
        net
    }

    /// Packets pass if somebody wants it and the host can. True if that was different before.
    fn settle_link(&mut self) -> bool {
        let up = self.wanted && self.carrier;
        let before = self.shared.link.swap(up, Ordering::Relaxed);
        let others = self.config.status.get() & !S_LINK_UP;
        self.config.status = (others | if up { S_LINK_UP } else { 0 }).into();
        before != up
    }

    fn limit(&mut self, mtu: Option<u16>) {
        self.mtu = mtu;
        self.config.mtu = mtu.unwrap_or(0).into();
    }
}

impl Device for Net {
    type Handler = PairHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    /// Of a pair: its group has its number.
    fn handler(&mut self, Group(pair): Group, agreed: Features) -> Result<PairHandler, DeviceError> {
        // Its headers may be shorter (VIRTIO 1.3, 5.1.6.1), and its fields in the guest's own byte order.
        if !agreed.has(VIRTIO_F_VERSION_1) {
            return Err(DeviceError::Invalid(
                "a driver of before VIRTIO 1.0 (VERSION_1) is not served".into(),
            ));
        }
        let terms = Terms { agreed, longest: longest(self.mtu) };
        let side = self.host.side(pair, &terms)?;
        Ok(PairHandler::new(pair, side, &terms, &self.shared))
    }

    /// What a front end has said is over.
    fn reset(&mut self) {
        self.limit(self.options.mtu);
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<(), DeviceError> {
        let most = self.host.most_mtu().unwrap_or(u16::MAX);
        let mtu = u16::try_from(mtu).ok().filter(|mtu| (MIN_MTU..=most).contains(mtu)).ok_or_else(|| {
            DeviceError::Invalid(format!("an MTU of {mtu}: {MIN_MTU} to {most} bytes are possible here"))
        })?;
        self.limit(Some(mtu));
        Ok(())
    }

    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        self.host.announce(mac)
    }

    fn look_every(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn look(&mut self) -> bool {
        let carrier = self.host.carrier();
        if carrier != self.carrier {
            self.carrier = carrier;
            tracing::info!("the host's side has {} link", if carrier { "a" } else { "no" });
        }
        self.settle_link()
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        if command != "link" {
            let answer = self.host.control(command, arguments);
            return answer.unwrap_or_else(|| Err(DeviceError::UnknownCommand(command.to_owned())));
        }
        let only = arguments.as_object().filter(|all| all.len() == 1);
        let Some(up) = only.and_then(|all| all.get("up")?.as_bool()) else {
            return Err(DeviceError::Invalid("link takes up (true or false)".to_owned()));
        };
        self.wanted = up;
        self.settle_link();
        Ok(json!({ "link": up }))
    }

    fn status(&self) -> Value {
        let both =
            |pair| json!({ "rx": counters::rx(&iter::once(pair)), "tx": counters::tx(&iter::once(pair)) });
        json!({
            "backend": self.host.name(),
            "link": self.shared.has_link(),
            "mac": self.options.mac.map(|mac| mac.to_string()),
            "mtu": self.mtu,
            "rx": counters::rx(&self.shared.pairs()),
            "tx": counters::tx(&self.shared.pairs()),
            "pairs": self.shared.pairs().map(both).collect::<Vec<_>>(),
            "backend_status": self.host.status(),
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let pairs = || self.shared.pairs();
        if !pairs().all(PairCounters::is_empty) {
            let (received, sent) = (counters::rx(&pairs()), counters::tx(&pairs()));
            tracing::info!("the interface has received {received}, sent {sent}");
        }
    }
}
