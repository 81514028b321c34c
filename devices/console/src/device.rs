//! The control half, and the program.

use std::sync::Arc;

use outboard_daemon::Program;
use outboard_device::defs::DeviceId;
use outboard_device::defs::console::{Config, F_EMERG_WRITE, F_MULTIPORT, F_SIZE};
use outboard_device::serde_json::Value;
use outboard_device::{Device, DeviceError, Features, Group, Patience, Profile, Reach};
use zerocopy::IntoBytes;

use crate::console::{Console, SharedSize};
use crate::handler::ConsoleHandler;
use crate::options::MOST_PORTS;
use crate::{ConsoleOptions, PortSpec};

/// Commands and characters that wait for a handler.
const ROOM: usize = 1024;
/// Where the character is that a driver writes.
const EMERGENCY: usize = 8;

/// A console, and ports.
pub struct ConsoleDevice {
    profile: Profile,
    config: Config,
    size: Arc<SharedSize>,
    pub(crate) reach: Arc<Reach<Console>>,
}

impl ConsoleDevice {
    /// Opens the far ends.
    ///
    /// # Errors
    /// One of them cannot be opened; there are too many; two ports have the same name.
    pub fn open(options: &ConsoleOptions) -> Result<Self, DeviceError> {
        let first = PortSpec { console: true, ..options.console.clone() };
        let specs: Vec<PortSpec> = [first].into_iter().chain(options.port.iter().cloned()).collect();
        let given = u16::try_from(specs.len()).ok().filter(|given| *given <= MOST_PORTS);
        let given = given.ok_or_else(|| DeviceError::Invalid(format!("more than {MOST_PORTS} ports")))?;
        let most = options.max_ports.unwrap_or(given);
        if most < given {
            return Err(DeviceError::Invalid(format!("{given} ports are more than --max-ports {most}")));
        }
        let features = if options.single { F_SIZE } else { F_SIZE | F_MULTIPORT };
        let profile = Profile::new(DeviceId::CONSOLE, "console").feature(features | F_EMERG_WRITE);
        let pairs = if options.single { 1 } else { most + 1 };
        let profile = (0..pairs).fold(profile, |profile, pair| {
            let [to, from] = match pair {
                1 => ["control-receiveq", "control-transmitq"],
                _ => ["receiveq", "transmitq"],
            };
            profile.queue(to, options.queue_size).queue(from, options.queue_size)
        });
        let (size, rows_first) = (options.size, options.rows_first);
        let reach = Reach::new(ROOM, move || Console::open(&specs, most.into(), size, rows_first))?;
        let config = Config { max_nr_ports: u32::from(most).into(), ..Config::default() };
        let size = SharedSize::new(size);
        let mut device = Self { profile, config, size, reach: Arc::new(reach) };
        device.settle();
        Ok(device)
    }
}

impl ConsoleDevice {
    /// Whether there can be more than one port.
    pub(crate) fn has_messages(&self) -> bool {
        self.profile.features.has(F_MULTIPORT)
    }
}

impl Device for ConsoleDevice {
    type Handler = ConsoleHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        self.config.as_bytes()
    }

    fn settle(&mut self) {
        let size = self.size.value();
        (self.config.cols, self.config.rows) = (size.cols.into(), size.rows.into());
    }

    /// A character may be written at any time, whatever the driver has set up (VIRTIO 1.3, 5.3.5). Some front ends write all of
    /// the space with it (QEMU).
    fn write_config(&mut self, offset: u32, data: &[u8], _: &Patience<'_>) -> Result<(), DeviceError> {
        let at = usize::try_from(offset).ok().and_then(|offset| EMERGENCY.checked_sub(offset));
        match at.and_then(|at| data.get(at)).copied() {
            Some(character) if offset as usize + data.len() <= size_of::<Config>() => self
                .reach
                .send(move |console| console.port(0).into_iter().for_each(|port| port.emergency(character))),
            _ => Err(DeviceError::ReadOnlyConfig),
        }
    }

    fn forget(&mut self, _: Group) {
        self.reach.with(Console::forget);
    }

    fn handler(&mut self, _: Group, agreed: Features) -> Result<ConsoleHandler, DeviceError> {
        ConsoleHandler::new(&self.reach, &self.size, agreed.has(F_MULTIPORT))
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let answer = self.command(command, arguments)?;
        // Without a handler nobody else would.
        self.reach.with(|console| console.port(0).map(|port| self.size.set(port.size)));
        self.settle();
        Ok(answer)
    }

    fn status(&self) -> Value {
        self.reach.ask(Console::show).unwrap_or(Value::Null)
    }
}

/// The program `vhost-user-console`.
pub struct VhostUserConsole;

impl Program for VhostUserConsole {
    const NAME: &'static str = "vhost-user-console";
    const TYPE: &'static str = "console";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str =
        "Consoles and ports of a guest, at sockets, terminals, files and in memory";
    type Args = ConsoleOptions;
    type Device = ConsoleDevice;

    fn open(options: ConsoleOptions) -> Result<ConsoleDevice, DeviceError> {
        ConsoleDevice::open(&options)
    }

    fn example() -> String {
        "vhost-user-console --socket-path /tmp/outboard.sock --console stdio &\n\
         qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\\n    \
         -machine memory-backend=mem -chardev socket,id=dev,path=/tmp/outboard.sock \\\n    \
         -device vhost-user-test-device-pci,chardev=dev,virtio-id=3,num_vqs=4,config_size=12 ..."
            .to_owned()
    }
}
