//! The size of the disk while it is in use: what the host has is looked at, or set by command.
//!
//! A command comes from the user. It may not destroy data unless it says so.
//!
//! Theory of operation. Handlers check each request against the size that is shared with them. A disk grows on the host
//! first and for handlers then; it shrinks for handlers first. Requests that were under way by then may reach what is
//! cut off: they fail, or a write brings the end of the file back.

use outboard_device::serde_json::{Map, Value, json};
use outboard_device::{DeviceError, Patience};

use crate::device::Blk;
use crate::host::Host;
use crate::options::parse_size;

/// The arguments of the command `resize`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resize {
    /// To so many bytes; `None`: to what the host has.
    size: Option<u64>,
    /// Data may be cut off.
    shrink: bool,
}

impl Resize {
    fn parse(arguments: &Value) -> Result<Self, DeviceError> {
        let none = Map::new();
        let mut resize = Self::default();
        for (key, value) in arguments.as_object().unwrap_or(&none) {
            match (key.as_str(), value) {
                ("size", Value::String(text)) => resize.size = Some(size(text)?),
                ("size", Value::Number(number)) => resize.size = Some(size(&number.to_string())?),
                ("shrink", Value::Bool(shrink)) => resize.shrink = *shrink,
                _ => {
                    return Err(invalid(
                        "resize takes size (bytes, or with K, M, G, T) and shrink (true or false)",
                    ));
                }
            }
        }
        Ok(resize)
    }
}

fn size(text: &str) -> Result<u64, DeviceError> {
    parse_size(text).map_err(|reason| DeviceError::Invalid(format!("size: {reason}")))
}

fn invalid(reason: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(reason.into())
}

impl Blk {
    /// Looks at the host, or sets the size first.
    pub(crate) fn resize(&mut self, arguments: &Value) -> Result<Value, DeviceError> {
        let Resize { size, shrink } = Resize::parse(arguments)?;
        if self.is_zoned() {
            return Err(invalid("a zoned disk keeps its size"));
        }
        let before = self.bytes();
        if let Some(size) = size {
            self.set_size(size, shrink)?;
        }
        self.look_again()?;
        Ok(json!({ "size": self.bytes(), "before": before }))
    }

    fn set_size(&mut self, size: u64, shrink: bool) -> Result<(), DeviceError> {
        let block = self.block();
        if !size.is_multiple_of(block.into()) {
            return Err(invalid(format!("{size} is no multiple of the block size, {block}")));
        }
        if self.is_read_only() {
            return Err(invalid("the disk is read-only"));
        }
        self.host().resizable()?;
        // The file may have grown without anybody having looked: what is there counts.
        let now = self.host().size(block)?;
        if size < now && !shrink {
            return Err(invalid(format!(
                "the disk has {now} bytes: shrink=true cuts off what is behind {size}"
            )));
        }
        if size < self.bytes() {
            self.show(size);
        }
        let set = self.host().set_size(size).and_then(|()| match self.host() {
            // Its tables say how long it is.
            Host::Store(_) => self.sync(&Patience::until(&|| false)),
            Host::File(_) | Host::Ram(_) => Ok(()),
        });
        if set.is_err() {
            // What was hidden is still there.
            self.look_again()?;
        }
        set
    }

    /// Takes over the size that the host has. True if it is another.
    pub(crate) fn look_again(&mut self) -> Result<bool, DeviceError> {
        let size = self.host().size(self.block())?;
        Ok(self.show(size))
    }

    /// Takes over the size that the host has if it is larger. What goes wrong is told by whoever needs to know.
    pub(crate) fn look_for_growth(&mut self) -> bool {
        match self.host().size(self.block()) {
            Ok(size) if size > self.bytes() => self.show(size),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resize_takes_a_size_in_bytes_or_with_a_suffix() {
        let parse = |arguments: Value| Resize::parse(&arguments).map_err(|error| error.to_string());
        assert_eq!(parse(Value::Null), Ok(Resize::default()));
        assert_eq!(parse(json!({})), Ok(Resize::default()));
        let sized = |size| Ok(Resize { size: Some(size), shrink: false });
        assert_eq!(parse(json!({ "size": 1024 })), sized(1024));
        assert_eq!(parse(json!({ "size": "3M" })), sized(3 << 20));
        assert!(parse(json!({ "size": 512, "shrink": true })).unwrap().shrink);
        for (wrong, reason) in [
            (json!({ "size": 1.5 }), "a number"),
            (json!({ "size": -512 }), "a number"),
            (json!({ "size": 0 }), "at least one sector"),
            (json!({ "size": 513 }), "multiple"),
            (json!({ "size": "9000000000G" }), "8 EiB"),
            (json!({ "size": null }), "resize takes"),
            (json!({ "shrink": "yes" }), "resize takes"),
            (json!({ "sise": 512 }), "resize takes"),
        ] {
            assert!(parse(wrong.clone()).unwrap_err().contains(reason), "{wrong}");
        }
    }
}
