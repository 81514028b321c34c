//! The configuration space of a device type, field by field.

use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::config_fields::{Field, Kind, config_space};
use serde_json::json;

use super::findings::Value;

/// The fields that lie within `bytes`. `features` are the bits on offer.
pub(super) fn fields(device: DeviceId, features: u64, bytes: &[u8]) -> Vec<Value> {
    let fields = config_space(device).map_or(&[][..], |space| space.fields);
    fields.iter().filter_map(|field| value(device, features, field, bytes)).collect()
}

/// A number of the configuration; `None` where there is no such field, or it lies outside of `bytes`.
pub(super) fn number(device: DeviceId, name: &str, bytes: &[u8]) -> Option<u64> {
    let field = config_space(device)?.fields.iter().find(|field| field.name == name)?;
    let part = bytes.get(field.offset..field.offset + field.kind.len())?;
    Some(little_endian(part))
}

fn value(device: DeviceId, features: u64, field: &Field, bytes: &[u8]) -> Option<Value> {
    let rest = bytes.get(field.offset..)?;
    let part = match field.kind {
        // Text may end where the bytes do.
        Kind::Text(len) => rest.get(..len.min(rest.len()))?,
        kind => rest.get(..kind.len())?,
    };
    let value = match field.kind {
        Kind::Number(_) => json!(little_endian(part)),
        Kind::Bits(_) => json!(format!("{:#x}", little_endian(part))),
        Kind::Mac => json!(joined(part, ":")),
        Kind::Text(_) => json!(text(part)),
        Kind::Bytes(_) => json!(joined(part, "")),
    };
    Some(Value {
        name: field.name,
        offset: field.offset,
        words: words(device, field, little_endian(part.get(..8.min(part.len()))?)),
        value,
        unit: field.unit,
        counts: field.feature.is_none_or(|bit| features & 1 << bit != 0),
    })
}

/// What a number means, where that is not plain.
fn words(device: DeviceId, field: &Field, value: u64) -> Option<String> {
    match (device, field.name) {
        (DeviceId::BLK, "capacity") => value.checked_mul(512).map(size),
        (DeviceId::BLK, "writeback") => {
            Some(if value == 0 { "write-through" } else { "write-back" }.to_owned())
        }
        (DeviceId::BLK, "zoned.zone_sectors") => value.checked_mul(512).map(size),
        (DeviceId::BLK, "zoned.model") => {
            let models = ["not zoned", "host-managed", "host-aware"];
            models.get(usize::try_from(value).ok()?).map(|&model| model.to_owned())
        }
        (DeviceId::NET, "status") => Some(if value & 1 == 0 { "link down" } else { "link up" }.to_owned()),
        (DeviceId::RPMB, "capacity") => Some(size(value << 17)),
        (DeviceId::MEM | DeviceId::PMEM, name) if name.ends_with("size") => Some(size(value)),
        (_, _) if field.unit == "bytes" && value >= 1 << 20 => Some(size(value)),
        _ => None,
    }
}

/// A number of bytes: `64 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (bytes.max(1).ilog2() / 10) as usize;
    let unit = UNITS.get(step).unwrap_or(&"bytes");
    match step {
        0 => format!("{bytes} {unit}"),
        _ if bytes.trailing_zeros() as usize >= 10 * step => format!("{} {unit}", bytes >> (10 * step)),
        _ => format!("{:.1} {unit}", bytes as f64 / (1_u64 << (10 * step)) as f64),
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Up to the first NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn joined(bytes: &[u8], separator: &str) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_whole_where_it_can_be() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn fields_of_a_zoned_disk_are_told_in_words() {
        let mut bytes = [0; 96];
        bytes[72..76].copy_from_slice(&(1_u32 << 19).to_le_bytes());
        bytes[92] = 1;
        let fields = fields(DeviceId::BLK, 1 << 17, &bytes);
        let words =
            |name| fields.iter().find(|field| field.name == name && field.counts).unwrap().words.clone();
        assert_eq!(words("zoned.zone_sectors").as_deref(), Some("256 MiB"));
        assert_eq!(words("zoned.model").as_deref(), Some("host-managed"));
        assert!(!fields.iter().any(|field| field.name == "max_secure_erase_seg" && field.counts));
    }

    #[test]
    fn fields_outside_of_the_bytes_are_left_out_and_unoffered_ones_do_not_count() {
        let fields = fields(DeviceId::NET, 1 << 5, &[2, 0, 0, 0, 0, 1, 1, 0]);
        let seen: Vec<_> = fields.iter().map(|value| (value.name, value.counts)).collect();
        assert_eq!(seen, [("mac", true), ("status", false)]);
        assert_eq!(fields.first().map(|mac| mac.value.clone()), Some(json!("02:00:00:00:00:01")));
    }
}
