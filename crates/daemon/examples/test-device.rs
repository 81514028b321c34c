//! A back-end program with a device that does nothing, for the tests of what every program shares.
//!
//! It also shows how little of a program is the device's own.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use outboard_daemon::Program;
use outboard_device::defs::DeviceId;
use outboard_device::serde_json::Value;
use outboard_device::{Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile};

#[derive(clap::Args)]
struct TestArgs {
    /// A file to open at the start
    #[arg(long, value_name = "PATH")]
    open: Option<PathBuf>,
    /// Never answer a read of the configuration space
    #[arg(long)]
    hang: bool,
    /// Panic at a read of the configuration space
    #[arg(long)]
    panic: bool,
}

struct TestDevice {
    profile: Profile,
    hang: bool,
    panic: bool,
}

struct TestHandler;

impl Device for TestDevice {
    type Handler = TestHandler;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn config(&self) -> &[u8] {
        if self.hang {
            tracing::warn!("hanging");
            std::thread::sleep(Duration::MAX);
        }
        assert!(!self.panic, "asked to");
        &[]
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<TestHandler, DeviceError> {
        Ok(TestHandler)
    }

    fn refresh(&mut self) -> Result<bool, DeviceError> {
        tracing::info!("refreshed");
        Ok(false)
    }

    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        match command {
            "echo" => Ok(arguments.clone()),
            _ => Err(DeviceError::UnknownCommand(command.to_owned())),
        }
    }
}

impl Handler for TestHandler {
    type Op = ();

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        cx.done(chain)
    }
}

struct TestProgram;

impl Program for TestProgram {
    const NAME: &'static str = "test-device";
    const TYPE: &'static str = "rng";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "A device that does nothing";
    type Args = TestArgs;
    type Device = TestDevice;

    fn open(args: TestArgs) -> Result<TestDevice, DeviceError> {
        if let Some(path) = args.open {
            File::open(&path)
                .map_err(|error| DeviceError::host(format!("cannot open {}", path.display()), error))?;
        }
        Ok(TestDevice {
            profile: Profile::new(DeviceId(4), "test").queue("requests", 64),
            hang: args.hang,
            panic: args.panic,
        })
    }
}

fn main() -> ExitCode {
    outboard_daemon::run::<TestProgram>()
}
