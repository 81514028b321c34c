//! The control half: the interface's identity, its configuration space, and what its handlers share.
//!
//! Of the front end come the features that the driver agreed to, and an MTU. What the driver commands comes by way of
//! [`Shared`], from the thread that serves its commands. It outlasts a reset, which may be a pause (docs/decisions/008).

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::DeviceId;
use outboard_device::defs::features::{VHOST_F_LOG_ALL, VIRTIO_F_VERSION_1};
use outboard_device::defs::net::{Config, F_CTRL_VQ, F_GUEST_ANNOUNCE, F_MQ, F_RSS};
use outboard_device::serde_json::{Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Profile};
use zerocopy::IntoBytes;

use crate::config::{config, features};
use crate::control::ControlHandler;
use crate::counters::{self, PairCounters};
use crate::handler::NetHandler;
use crate::host::{self, Backing, Terms};
use crate::limits::Limits;
use crate::options::{Mac, NetOptions};
use crate::pair::PairHandler;
use crate::shared::{Settings, Shared};
use crate::switch::Switches;

/// How often the host is asked whether it has a link.
const LOOK: Duration = Duration::from_secs(1);
/// Entries of the control queue: a driver has one command at a time under way.
const CONTROL_SIZE: u16 = 64;

/// A network interface.
pub struct Net {
    profile: Profile,
    config: Config,
    options: NetOptions,
    host: Box<dyn Backing>,
    shared: Arc<Shared>,
    /// What the driver agreed to.
    agreed: Features,
    /// The driver begins, and has set nothing yet.
    begins: bool,
    /// There was a reset: whether the next driver is the same one shows when the control queue starts.
    in_doubt: bool,
    /// Somebody may have taken the link away, at the control socket.
    wanted: bool,
    /// The host has a link.
    carrier: bool,
}

impl Net {
    /// Opens what is behind the interface, for one that is alone in its process.
    ///
    /// # Errors
    /// Options that do not go together; what the host refuses.
    pub fn open(options: &NetOptions) -> Result<Self, DeviceError> {
        Self::open_in(options, "net", &Switches::default())
    }

    /// Opens what is behind the interface, beside others that may have to do with it.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_in(options: &NetOptions, name: &str, switches: &Switches) -> Result<Self, DeviceError> {
        Ok(Self::before(host::open(options, name, switches)?, options))
    }

    /// The interface before what is opened already.
    pub(crate) fn before(host: Box<dyn Backing>, options: &NetOptions) -> Self {
        let features = features(options, host.offers());
        let shape = Profile::new(DeviceId::NET, "net").feature(features.0).network();
        let shape = if host.keeps_order() { shape.in_order() } else { shape };
        // VIRTIO 1.3, 5.1.2: 2i receives, 2i + 1 transmits, the last takes commands. Each pair is on a thread of its own.
        let profile = (0..options.pairs)
            .fold(shape, |profile, _| {
                profile
                    .parallel_queues("receiveq", options.queue_size, 1)
                    .queue("transmitq", options.queue_size)
            })
            .parallel_queues("controlq", CONTROL_SIZE, 1);
        let options = options.clone();
        let shared = Arc::new(Shared::new(options.pairs, settings(&options)));
        let mut net = Self {
            profile,
            config: Config::default(),
            options,
            host,
            shared,
            agreed: Features::default(),
            begins: false,
            in_doubt: false,
            wanted: true,
            carrier: true,
        };
        net.look();
        net.settle();
        net
    }

    /// Forgets what the driver has set.
    fn begin_anew(&mut self, mtu: Option<u16>) {
        let limits = self.shared.settings().limits.clone();
        let fresh = Settings { mtu, limits, ..settings(&self.options) };
        self.shared.change(|settings| *settings = fresh);
        self.in_doubt = false;
        self.settle();
    }

    /// The group of the control queue. It is behind those of the pairs, or takes the place of the second pair with a driver
    /// that uses one (VIRTIO 1.3, 5.1.2).
    fn control_group(&self, agreed: Features) -> Group {
        let has_pairs = agreed.has(F_MQ) || agreed.has(F_RSS);
        Group(if agreed.has(F_CTRL_VQ) && !has_pairs { 1 } else { self.options.pairs })
    }

    /// Packets pass if somebody wants it and the host can.
    fn settle_link(&mut self) {
        self.shared.set_link(self.wanted && self.carrier);
        self.settle();
    }

    fn set_link(&mut self, arguments: &Value) -> Result<Value, DeviceError> {
        let only = arguments.as_object().filter(|all| all.len() == 1);
        let Some(up) = only.and_then(|all| all.get("up")?.as_bool()) else {
            return Err(DeviceError::Invalid("link takes up (true or false)".to_owned()));
        };
        self.wanted = up;
        self.settle_link();
        Ok(json!({ "link": up }))
    }

    /// Has the driver say to the network where it is.
    fn ask_for_announcement(&mut self) -> Result<Value, DeviceError> {
        if !self.shared.settings().passed_on || !self.agreed.has(F_GUEST_ANNOUNCE) {
            return Err(DeviceError::Invalid("no driver that could announce itself listens here".to_owned()));
        }
        self.shared.change(|settings| settings.announcing = true);
        self.settle();
        Ok(Value::Null)
    }
}

/// What holds before anybody sets anything.
fn settings(options: &NetOptions) -> Settings {
    Settings {
        mtu: options.mtu,
        mac: options.mac.map(|mac| mac.0),
        limits: Limits::new(&options.limits),
        ..Settings::default()
    }
}

impl Device for Net {
    type Handler = NetHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    /// Another driver reads this before it starts its queues, and is not to be told what the one before it has set.
    fn settle(&mut self) {
        let set = self.shared.settings();
        let fresh = Settings { mtu: set.mtu, ..settings(&self.options) };
        let shown = if self.in_doubt { &fresh } else { &*set };
        self.config = config(&self.options, self.shared.has_link(), shown);
    }

    /// What a driver with other features has set is over; the front end's MTU is not.
    fn agreed(&mut self, agreed: Features) {
        // That memory is logged is the front end's, and comes with a migration.
        let agreed = Features(agreed.0 & !VHOST_F_LOG_ALL);
        if std::mem::replace(&mut self.agreed, agreed) != agreed {
            let mtu = self.shared.settings().mtu;
            self.begin_anew(mtu);
        }
    }

    /// What was set is over where commands begin anew.
    fn forget(&mut self, group: Group) {
        if group == self.control_group(self.agreed) {
            let mtu = self.shared.settings().mtu;
            self.begin_anew(mtu);
            self.begins = true;
        }
    }

    /// A group of queues has the number of its pair.
    fn handler(&mut self, Group(group): Group, agreed: Features) -> Result<NetHandler, DeviceError> {
        // Its headers may be shorter (VIRTIO 1.3, 5.1.6.1), and its fields in the guest's own byte order.
        if !agreed.has(VIRTIO_F_VERSION_1) {
            return Err(DeviceError::Invalid(
                "a driver of before VIRTIO 1.0 (VERSION_1) is not served".into(),
            ));
        }
        let pairs = self.options.pairs;
        let is_control = Group(group) == self.control_group(agreed);
        if is_control || group >= pairs {
            // Of a queue that the driver does not have nothing is obeyed.
            let agreed = if is_control { agreed } else { Features::default() };
            let begins = is_control && std::mem::take(&mut self.begins);
            if is_control {
                self.in_doubt = false;
            }
            let control = ControlHandler::new(group, agreed, pairs, begins, &self.shared);
            return Ok(NetHandler::Control(control));
        }
        let terms = Terms { agreed, mtu: self.shared.settings().mtu };
        let side = self.host.side(group, &terms)?;
        Ok(NetHandler::Pair(PairHandler::new(group, side, &terms, &self.shared)))
    }

    fn reset(&mut self) {
        self.in_doubt = true;
        self.settle();
    }

    /// What front end and driver have set is over.
    fn disconnected(&mut self) {
        self.agreed = Features::default();
        self.begin_anew(self.options.mtu);
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<(), DeviceError> {
        let (least, most) = (self.host.least_mtu(), self.host.most_mtu().unwrap_or(u16::MAX));
        let mtu = u16::try_from(mtu).ok().filter(|mtu| (least..=most).contains(mtu)).ok_or_else(|| {
            DeviceError::Invalid(format!("an MTU of {mtu}: {least} to {most} bytes are possible here"))
        })?;
        self.shared.change(|settings| settings.mtu = Some(mtu));
        self.settle();
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
        if carrier == self.carrier {
            return false;
        }
        tracing::info!("the host's side has {} link", if carrier { "a" } else { "no" });
        self.carrier = carrier;
        let before = self.config.status;
        self.settle_link();
        before != self.config.status
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match command {
            "link" => self.set_link(arguments),
            "announce" => self.ask_for_announcement(),
            "limits" => {
                let limits = self.shared.settings().limits.changed(arguments)?;
                let shown = limits.show();
                self.shared.change(|settings| settings.limits = limits);
                Ok(json!({ "limits": shown }))
            }
            command => {
                let answer = self.host.control(command, arguments);
                answer.unwrap_or_else(|| Err(DeviceError::UnknownCommand(command.to_owned())))
            }
        }
    }

    fn status(&self) -> Value {
        let both =
            |pair| json!({ "rx": counters::rx(&iter::once(pair)), "tx": counters::tx(&iter::once(pair)) });
        let settings = self.shared.settings();
        json!({
            "backend": self.host.name(),
            "link": self.shared.has_link(),
            "mac": settings.mac.map(|mac| Mac(mac).to_string()),
            "mtu": settings.mtu,
            "limits": settings.limits.show(),
            "control_queue": settings.passed_on,
            "pairs_in_use": self.shared.receiving(),
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
