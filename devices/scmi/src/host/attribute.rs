//! Attributes of sysfs: short texts in files, below a directory that they cannot lead out of.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use outboard_device::DeviceError;
use outboard_scmi_protocols::{RESET_DEASSERT, What};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::{pread, pwrite};

use super::Wanted;
use super::asked::Real;
use super::quantity::Quantity;

/// The longest text that an attribute is believed to have.
const LONGEST: usize = 256;
/// A power domain that is off, and a voltage domain that is on, on the wire.
const POWER_OFF: i64 = 1 << 30;
const MODE_ON: i64 = 7;

/// What is read, and what is written.
pub(super) struct Attribute {
    form: Form,
    value: File,
    /// Where it is not the same file, or read alone.
    setting: Option<File>,
}

/// How an attribute's text is to be understood.
enum Form {
    Number,
    /// A word for on or off, or 1 or 0; the numbers are what they are on the wire.
    Switch {
        on: i64,
        off: i64,
    },
    /// A device's `power/control`: on, or off as soon as its driver likes.
    Managed {
        on: i64,
        off: i64,
    },
    /// A channel of IIO: (raw + offset) * scale, in its unit times ten to a power that `scale` has in it.
    Channel {
        scale: f64,
        offset: f64,
    },
}

impl Attribute {
    /// The attribute at `path`, or the one in the directory `path` that has what is wanted.
    pub(super) fn sysfs(root: &Path, path: &Path, wanted: &Wanted<'_>) -> Result<Self, DeviceError> {
        let (form, read, write) = match wanted.what {
            What::Power if path.ends_with("power/control") => {
                (Form::Managed { on: 0, off: POWER_OFF }, "", "")
            }
            What::Power => (Form::Switch { on: 0, off: POWER_OFF }, "", ""),
            What::Mode if wanted.alone => (Form::Switch { on: MODE_ON, off: 0 }, "", ""),
            What::Mode => (Form::Switch { on: MODE_ON, off: 0 }, "state", "state"),
            What::Microvolts => (Form::Number, "microvolts", "microvolts"),
            What::Level => (Form::Number, "scaling_cur_freq", "scaling_setspeed"),
            What::MaxLevel => (Form::Number, "scaling_max_freq", "scaling_max_freq"),
            What::MinLevel => (Form::Number, "scaling_min_freq", "scaling_min_freq"),
            What::Rate | What::Running | What::Reading(_) | What::Reset | What::System => {
                (Form::Number, "", "")
            }
        };
        if wanted.axis.is_some() {
            return Err(DeviceError::Invalid(format!("{}: an attribute has no axes", path.display())));
        }
        let file = |name: &str, flags| {
            let path = if name.is_empty() { path.to_owned() } else { path.join(name) };
            below(root, &path, flags)
        };
        // What resets a device is often for writing only.
        let reading = if wanted.what == What::Reset { OFlags::WRONLY } else { OFlags::RDONLY };
        let value = file(read, reading)?;
        let setting = if wanted.writable { Some(file(write, OFlags::WRONLY)?) } else { None };
        Ok(Self { form, value, setting })
    }

    /// The channel `path` of an IIO device; of several axes, the one whose letter the axis' name ends with.
    pub(super) fn iio(root: &Path, path: &Path, wanted: &Wanted<'_>) -> Result<Self, DeviceError> {
        let letter = wanted.axis.and_then(|axis| axis.chars().last()).map(|last| last.to_ascii_lowercase());
        let named = |suffix: &str, letter: Option<char>| {
            let mut name = Path::new("bus/iio/devices").join(path).into_os_string();
            if let Some(letter) = letter {
                name.push(format!("_{letter}"));
            }
            name.push(suffix);
            name
        };
        let value = below(root, named("_raw", letter).as_ref(), OFlags::RDONLY)?;
        // A device may have one scale for a channel, and one for all of a kind; without one it is 1, without offset 0.
        let factor = |suffix: &str, default: f64| {
            [letter, None]
                .into_iter()
                .find_map(|letter| below(root, named(suffix, letter).as_ref(), OFlags::RDONLY).ok())
                .map_or(Ok(default), |file| number(&text(&file)?))
        };
        let both = factor("_scale", 1.0).and_then(|scale| Ok((scale, factor("_offset", 0.0)?)));
        let (scale, offset) = both.map_err(|error| {
            DeviceError::host(format!("cannot read the scale of {}", path.display()), error)
        })?;
        let exponent = Quantity::of(path).map_or(0, |quantity| quantity.exponent);
        let scale = scale * 10f64.powi(i32::from(exponent) - i32::from(wanted.scale));
        Ok(Self { form: Form::Channel { scale, offset }, value, setting: None })
    }

    fn is_write_only(&self) -> bool {
        rustix::fs::fcntl_getfl(&self.value).is_ok_and(|flags| flags.contains(OFlags::WRONLY))
    }
}

impl Real for Attribute {
    fn read(&self) -> io::Result<i64> {
        let text = || text(&self.value);
        match &self.form {
            Form::Number if self.setting.is_some() && self.is_write_only() => Ok(RESET_DEASSERT),
            Form::Number => number(&text()?),
            Form::Switch { on, off } | Form::Managed { on, off } => match text()?.as_str() {
                "1" | "on" | "enabled" | "active" => Ok(*on),
                "0" | "off" | "auto" | "disabled" | "suspended" => Ok(*off),
                other => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, format!("neither on nor off: {other}")))
                }
            },
            Form::Channel { scale, offset } => {
                let raw: f64 = number(&text()?)?;
                Ok(((raw + offset) * scale).round() as i64)
            }
        }
    }

    /// Writes a number, or whichever word the attribute uses.
    fn write(&self, value: i64) -> io::Result<()> {
        let Some(file) = &self.setting else { return Err(io::ErrorKind::PermissionDenied.into()) };
        let words = match &self.form {
            Form::Switch { on, .. } => {
                let is_on = value == *on;
                match text(&self.value)?.as_str() {
                    "on" | "off" => if is_on { "on" } else { "off" }.to_owned(),
                    "enabled" | "disabled" => if is_on { "enabled" } else { "disabled" }.to_owned(),
                    _ => u8::from(is_on).to_string(),
                }
            }
            Form::Managed { on, .. } => if value == *on { "on" } else { "auto" }.to_owned(),
            Form::Number | Form::Channel { .. } => value.to_string(),
        };
        if pwrite(file, words.as_bytes(), 0)? == words.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// A file at or below `root`, which no link and no `..` leads out of.
fn below(root: &Path, path: &Path, flags: OFlags) -> Result<File, DeviceError> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let top = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let file = top.and_then(|top| {
        openat2(
            top.as_fd(),
            path,
            flags | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
            ResolveFlags::BENEATH,
        )
    });
    file.map(File::from)
        .map_err(|error| DeviceError::host(format!("cannot open {}", root.join(path).display()), error))
}

/// What an attribute says now.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; LONGEST];
    let len = pread(file, &mut bytes, 0)?;
    let bytes = bytes.get(..len).unwrap_or_default();
    Ok(String::from_utf8_lossy(bytes).trim().to_owned())
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    let error = || io::Error::new(io::ErrorKind::InvalidData, format!("no number: {text}"));
    text.parse().map_err(|_| error())
}
