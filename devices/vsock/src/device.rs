//! The control half: the guest's context id, the rules, and what becomes of the connections between two handlers.
//!
//! Of the front end comes what the driver agreed to. The command line and the control socket set the rules.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outboard_device::defs::DeviceId;
use outboard_device::defs::vsock::{Config, F_NO_IMPLIED_STREAM, F_SEQPACKET, F_STREAM};
use outboard_device::serde_json::{Map, Value, json};
use outboard_device::{Device, DeviceError, Features, Group, Keep, Profile};
use outboard_streams::{Access, Address, Door, Form, Listener, Token};
use zerocopy::IntoBytes;

use crate::command::{Entrance, Errand, Job};
use crate::counters::Counters;
use crate::flows::{Bounds, Flows, Setting};
use crate::handler::VsockHandler;
use crate::options::{Listen, VsockOptions};
use crate::rules::{Gate, Rules};
use crate::sibling::{Registry, Visit};

/// How long a worker may take to answer the control half.
const PATIENCE: Duration = Duration::from_secs(2);
/// AF_VSOCK ports that are listened at, at most.
const MOST_LISTENED: u64 = 1024;

/// Sockets of a guest.
pub struct Vsock {
    profile: Profile,
    config: Config,
    pub(crate) setting: Arc<Setting>,
    flows: Keep<Flows>,
    groups: Vec<String>,
    /// The driver is known to begin at the beginning.
    begins: bool,
}

impl Vsock {
    /// Opens what the guest's programs are reached at.
    ///
    /// # Errors
    /// Another guest of the process has the context id; somebody else listens there; options that do not go together.
    pub fn open(options: &VsockOptions, registry: &Arc<Registry>) -> Result<Self, DeviceError> {
        let entrances = entrances(options)?;
        let cid = options.guest_cid;
        registry.join(cid, &options.group)?;
        let (room, most_room) = (options.buffer << 10, options.buffer_max.max(options.buffer) << 10);
        let setting = Arc::new(Setting {
            cid,
            bounds: Bounds {
                connections: options.max_connections as usize,
                room,
                most_room,
                memory: u64::from(options.memory) << 20,
                answers: options.queue_size.into(),
            },
            rules: Mutex::new(rules(options)),
            counters: Counters::default(),
            connections: AtomicU64::new(0),
            announced: AtomicU64::new(0),
            registry: Arc::clone(registry),
        });
        let profile = ["rx", "tx", "event"].into_iter().fold(
            Profile::new(DeviceId::VSOCK, "vsock").feature(F_STREAM | F_SEQPACKET | F_NO_IMPLIED_STREAM),
            |profile, name| profile.queue(name, options.queue_size),
        );
        let of_flows = Arc::clone(&setting);
        let this = Self {
            profile,
            config: Config { guest_cid: u64::from(cid).into() },
            setting,
            flows: Keep::new(move || Flows::new(Arc::clone(&of_flows)))?,
            groups: options.group.clone(),
            begins: false,
        };
        for entrance in entrances {
            this.flows.with(|flows| flows.enter(entrance)).transpose()?;
        }
        Ok(this)
    }

    /// Has the worker do something, or does it where there is none.
    ///
    /// # Errors
    /// What the worker says; it does not answer.
    pub(crate) fn send(&self, job: Job) -> Result<Value, DeviceError> {
        let mut job = Some(job);
        let obeyed = self.flows.with(|flows| job.take().map(|job| flows.obey(job)));
        if let Some(Some(answer)) = obeyed {
            return answer;
        }
        let (answer, answers) = sync_channel(1);
        let silent = || DeviceError::Invalid("the queues do not answer".to_owned());
        let outlet = self.setting.registry.outlet(self.setting.cid).ok_or_else(silent)?;
        let mut visit: Vec<Visit> =
            job.map(|job| Visit::Errand(Errand { job, answer })).into_iter().collect();
        if outlet.post(&mut visit) == 0 {
            return Err(silent());
        }
        answers.recv_timeout(PATIENCE).map_err(|_| silent())?
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.setting.registry.leave(self.setting.cid);
    }
}

/// The rules that the command line sets.
fn rules(options: &VsockOptions) -> Rules {
    let gate = |allow: &Option<_>, deny: &Option<_>| Gate {
        allow: allow.clone(),
        deny: deny.clone(),
        ..Gate::default()
    };
    Rules {
        out: gate(&options.allow, &options.deny),
        into: gate(&options.allow_in, &options.deny_in),
        services: options.service.iter().map(|serve| (serve.port, serve.service)).collect(),
        forwards: options.forward.iter().map(|one| (one.port, one.address.clone())).collect(),
        path: options.uds_path.clone(),
        cid: options.forward_cid,
    }
}

/// Where connections for the guest come in.
fn entrances(options: &VsockOptions) -> Result<Vec<Entrance>, DeviceError> {
    let mut all = Vec::new();
    if let Some(path) = &options.uds_path {
        let mut messages = path.as_os_str().to_owned();
        messages.push(".seqpacket");
        for address in [Address::Unix(path.clone()), Address::UnixMessages(messages.into())] {
            all.push(entrance(&address, None, Form::Bytes, None)?);
        }
    }
    for Listen { address, port, token_file } in &options.listen {
        let token = token_file.as_deref().map(Token::read).transpose()?;
        all.push(entrance(address, Some(*port), Form::Bytes, token)?);
    }
    let listened = [
        ("--forward-listen", &options.forward_listen, Form::Bytes),
        ("--forward-listen-messages", &options.forward_listen_messages, Form::Messages),
    ];
    for (option, ports, form) in listened {
        let Some(ports) = ports else { continue };
        if ports.count() > MOST_LISTENED {
            return Err(DeviceError::Invalid(format!("{option} {ports}: at most {MOST_LISTENED} ports")));
        }
        for port in ports.iter() {
            let address = Address::Vsock { cid: u32::MAX, port };
            all.push(entrance(&address, Some(port), form, None)?);
        }
    }
    Ok(all)
}

/// Listens at an address.
pub(crate) fn entrance(
    address: &Address,
    port: Option<u32>,
    form: Form,
    token: Option<Token>,
) -> Result<Entrance, DeviceError> {
    let listener = Listener::open(address, form, Access::Umask)?;
    Ok(Entrance { name: address.to_string(), listener, port, door: Door::new(token) })
}

impl Device for Vsock {
    type Handler = VsockHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn forget(&mut self, _: Group) {
        self.begins = true;
        self.flows.with(|flows| {
            flows.clear();
            flows.resets = 0;
        });
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<VsockHandler, DeviceError> {
        let begins = std::mem::take(&mut self.begins);
        let mut flows = self.flows.take()?;
        if !begins && !flows.is_known {
            // The driver goes on with connections that are not here: it was moved, or this program was started anew.
            flows.resets = 1;
        }
        flows.is_known = true;
        Ok(VsockHandler::new(flows, agreed.has(F_SEQPACKET)))
    }

    fn disconnected(&mut self) {
        self.flows.with(|flows| {
            flows.clear();
            flows.is_known = false;
        });
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        self.command(command, arguments)
    }

    fn status(&self) -> Value {
        let mut all = Map::new();
        all.insert("cid".to_owned(), json!(self.setting.cid));
        all.insert("groups".to_owned(), json!(self.groups));
        all.insert("connections".to_owned(), json!(self.setting.connections.load(Ordering::Relaxed)));
        all.insert("announced".to_owned(), json!(self.setting.announced.load(Ordering::Relaxed)));
        let rules = self.setting.rules().show();
        for part in [self.setting.counters.show(), rules] {
            if let Value::Object(part) = part {
                all.extend(part);
            }
        }
        Value::Object(all)
    }
}
