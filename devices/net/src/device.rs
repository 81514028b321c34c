//! The control half: the interface's identity, its configuration space, and what its handlers share.
//!
//! Of the front end come the features that the driver agreed to, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outboard_device::defs::DeviceId;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{Config, S_LINK_UP};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Profile};
use zerocopy::IntoBytes;

use crate::config::{config, features, longest};
use crate::counters::PairCounters;
use crate::host::Host;
use crate::options::NetOptions;
use crate::pair::PairHandler;

/// A network interface.
pub struct Net {
    profile: Profile,
    config: Config,
    options: NetOptions,
    host: Host,
    shared: Arc<Shared>,
}

/// What handlers look at with each packet, and the control half changes.
#[derive(Debug)]
pub(crate) struct Shared {
    link: AtomicBool,
    pub(crate) counters: PairCounters,
}

impl Shared {
    /// Whether packets go through. It orders nothing else.
    pub(crate) fn has_link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }
}

impl Net {
    /// Opens what is behind the interface.
    ///
    /// # Errors
    /// Options that do not go together; what the host refuses.
    pub fn open(options: &NetOptions) -> Result<Self, DeviceError> {
        let host = Host::open(options)?;
        let profile = Profile::new(DeviceId::NET, "net")
            .feature(features(options, host.offers()).0)
            .in_order()
            .queue("receiveq", options.queue_size)
            .queue("transmitq", options.queue_size);
        let shared = Shared { link: AtomicBool::new(true), counters: PairCounters::default() };
        let (config, options) = (config(options), options.clone());
        Ok(Self { profile, config, options, host, shared: Arc::new(shared) })
    }

    fn set_link(&mut self, up: bool) {
        self.shared.link.store(up, Ordering::Relaxed);
        let others = self.config.status.get() & !S_LINK_UP;
        self.config.status = (others | if up { S_LINK_UP } else { 0 }).into();
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

    fn handler(&mut self, _: Group, agreed: Features) -> Result<PairHandler, DeviceError> {
        // Its headers may be shorter (VIRTIO 1.3, 5.1.6.1), and its fields in the guest's own byte order.
        if !agreed.has(VIRTIO_F_VERSION_1) {
            return Err(DeviceError::Invalid(
                "a driver of before VIRTIO 1.0 (VERSION_1) is not served".into(),
            ));
        }
        let longest = longest(&self.options);
        Ok(PairHandler::new(self.host.side(agreed, longest)?, agreed, longest, &self.shared))
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        if command != "link" {
            return Err(DeviceError::UnknownCommand(command.to_owned()));
        }
        let only = arguments.as_object().filter(|all| all.len() == 1);
        let Some(up) = only.and_then(|all| all.get("up")?.as_bool()) else {
            return Err(DeviceError::Invalid("link takes up (true or false)".to_owned()));
        };
        self.set_link(up);
        Ok(json!({ "link": up }))
    }

    fn status(&self) -> Value {
        json!({
            "backend": self.host.name(),
            "link": self.shared.has_link(),
            "mac": self.options.mac.map(|mac| mac.to_string()),
            "mtu": self.options.mtu,
            "rx": self.shared.counters.rx(),
            "tx": self.shared.counters.tx(),
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let counters = &self.shared.counters;
        if !counters.is_empty() {
            tracing::info!("the interface has received {}, sent {}", counters.rx(), counters.tx());
        }
    }
}
