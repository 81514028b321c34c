//! The configuration space (vhost-user: GET_CONFIG, SET_CONFIG). Front ends ask for more than there is, in windows of any size: what is behind
//! the end reads as zeroes.

use outboard_vhost_user::message::MAX_CONFIG_END;
use outboard_vhost_user::payload::ConfigHeader;
use zerocopy::{FromBytes, IntoBytes};

use crate::connection::Connection;
use crate::dispatch::{Outcome, wrong};
use crate::faults::{Fault, die};
use crate::messages::{Answer, Kind, Refused};

/// GET_CONFIG: answers with the bytes that are asked for.
pub(crate) fn read(connection: &mut Connection<'_>, body: &[u8]) -> Outcome {
    let faults = connection.faults;
    let (asked, rest) = ConfigHeader::read_from_prefix(body).map_err(|_| wrong("too short"))?;
    let ConfigHeader { offset, size, flags } = asked;
    if size as usize > rest.len() && faults.has(Fault::ConfigSizeCrashes) {
        die();
    }
    let runs = connection.rings.iter().any(|ring| ring.running.is_some());
    if (size % 4 != 0 && faults.has(Fault::ConfigOddSizeRefused))
        || (runs && faults.has(Fault::ConfigNeedsStop))
    {
        return Err(wrong("not now, or not so"));
    }
    let refused = |why: String| match faults.has(Fault::ConfigRangeCloses) {
        true => Refused::new(Kind::Fatal, why),
        false => Refused::new(Kind::Wrong, why),
    };
    let end = offset.checked_add(size).filter(|end| *end <= MAX_CONFIG_END);
    let end = end.ok_or_else(|| refused(format!("{offset} + {size} of configuration")))?;
    if flags != 0 && faults.has(Fault::ConfigFlagsRefused) {
        return Err(refused(format!("flags {flags}")));
    }
    if connection.features.is_none() && faults.has(Fault::ConfigNeedsFeatures) {
        return Err(refused("there are no features yet".to_owned()));
    }
    let mut config = connection.device.config();
    if end as usize > config.len() && faults.has(Fault::ConfigNotPadded) {
        return Err(refused(format!("the configuration has {} bytes", config.len())));
    }
    if faults.has(Fault::ConfigUnstable) {
        config.iter_mut().for_each(|byte| *byte = byte.wrapping_add(connection.messages as u8));
    }
    let padding = if faults.has(Fault::ConfigPaddedWithOnes) { 0xff } else { 0 };
    let (start, end) = if faults.has(Fault::ConfigOffsetIgnored) { (0, size) } else { (offset, end) };
    let mut data: Vec<u8> =
        (start..end).map(|at| config.get(at as usize).copied().unwrap_or(padding)).collect();
    if faults.has(Fault::ConfigAnswerShort) {
        data.truncate(config.len().saturating_sub(offset as usize));
    }
    let size = if faults.has(Fault::ConfigSizeWrong) { size + 1 } else { data.len() as u32 };
    let offset = if faults.has(Fault::ConfigOffsetNotEchoed) { offset + 1 } else { offset };
    let mut body = ConfigHeader { offset, size, flags }.as_bytes().to_vec();
    body.append(&mut data);
    Ok(Answer::Data(body, Vec::new()))
}

/// SET_CONFIG. What follows the announced bytes is ignored: some front ends send their whole buffer.
pub(crate) fn write(connection: &mut Connection<'_>, body: &[u8]) -> Outcome {
    let faults = connection.faults;
    let (header, data) = ConfigHeader::read_from_prefix(body).map_err(|_| wrong("too short"))?;
    let size = usize::try_from(header.size).unwrap_or(usize::MAX);
    let data = data.get(..size).ok_or_else(|| wrong("less configuration than announced"))?;
    if faults.has(Fault::ConfigWriteIgnored) {
        return Ok(Answer::Ack);
    }
    if header.offset as usize > connection.device.config().len() && faults.has(Fault::ConfigWriteCrashes) {
        die();
    }
    if body.len() > ConfigHeader::LEN + size && faults.has(Fault::ConfigWriteExact) {
        return Err(wrong("more configuration than announced"));
    }
    match connection.device.set_config(header.offset, data) {
        Err(_) if faults.has(Fault::ConfigWriteAnywhere) => Ok(Answer::Ack),
        Err(bad) => Err(bad.into()),
        Ok(()) => Ok(Answer::Ack),
    }
}
