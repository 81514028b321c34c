//! The commands of the control socket. Who can connect is trusted with the ports; what makes no sense is told.

use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};

use crate::console::Console;
use crate::device::ConsoleDevice;
use crate::host::Ring;
use crate::{PortSpec, Size};

impl ConsoleDevice {
    /// Carries out a command.
    ///
    /// # Errors
    /// There is none of that name; what it is given makes no sense; its port has another far end.
    pub(crate) fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let known: &[&str] = match command {
            "ports" => &[],
            "resize" => &["port", "cols", "rows"],
            "hangup" | "remove-port" => &["port"],
            "add-port" => &["port"],
            "read" => &["port", "from"],
            "write" => &["port", "text"],
            _ => return Err(DeviceError::UnknownCommand(command.to_owned())),
        };
        let unknown = arguments.as_object().and_then(|all| all.keys().find(|key| !known.contains(&&***key)));
        if let Some(unknown) = unknown {
            return invalid(format!("{command} has no argument {unknown:?}"));
        }
        let port = || number(arguments, "port", Some(0)).map(|port| port as usize);
        match command {
            "ports" => self.reach.ask(Console::show),
            "resize" => {
                let (port, cols, rows) =
                    (port()?, number(arguments, "cols", None)?, number(arguments, "rows", None)?);
                let size: Size = format!("{cols}x{rows}").parse().map_err(DeviceError::Invalid)?;
                self.reach.ask(move |console| {
                    let port = console.known(port)?;
                    match port.spec.console {
                        true => port.resize(size),
                        false => return invalid("the port is no console"),
                    }
                    Ok(Value::Null)
                })?
            }
            "hangup" => {
                let port = port()?;
                self.reach.ask(move |console| {
                    let port = console.known(port)?;
                    port.far.hang_up();
                    port.stir(true);
                    Ok(Value::Null)
                })?
            }
            "add-port" => {
                let spec: PortSpec = text(arguments, "port")?.parse().map_err(DeviceError::Invalid)?;
                if !self.has_messages() {
                    return invalid("a device with --single has one port");
                }
                self.reach.ask(move |console| console.add(spec).map(|id| json!({ "port": id })))?
            }
            "remove-port" => {
                let port = port()?;
                self.reach.ask(move |console| console.remove(port).map(|()| Value::Null))?
            }
            "read" => {
                let (port, from) = (port()?, number(arguments, "from", Some(0))?);
                self.reach.ask(move |console| Ok(ring(console, port)?.show(from)))?
            }
            _ => {
                let (port, text) = (port()?, text(arguments, "text")?.to_owned());
                self.reach.ask(move |console| {
                    ring(console, port)?.type_in(&text)?;
                    console.known(port)?.stir(true);
                    Ok(Value::Null)
                })?
            }
        }
    }
}

fn ring(console: &mut Console, port: usize) -> Result<&mut Ring, DeviceError> {
    let ring = console.known(port)?.far.ring();
    ring.ok_or_else(|| DeviceError::Invalid(format!("port {port} has no ring at its far end")))
}

fn invalid<T>(text: impl Into<String>) -> Result<T, DeviceError> {
    Err(DeviceError::Invalid(text.into()))
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, DeviceError> {
    let text = arguments.get(name).and_then(Value::as_str);
    text.map_or_else(|| invalid(format!("{name}: a text is needed")), Ok)
}

fn number(arguments: &Value, name: &str, otherwise: Option<u64>) -> Result<u64, DeviceError> {
    let number = arguments.get(name).map_or(otherwise, Value::as_u64);
    number.map_or_else(|| invalid(format!("{name}: a number is needed")), Ok)
}
