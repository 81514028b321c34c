//! The I2C adapter (VIRTIO 1.3, 5.16). What a chip does is asked of the one that the user names: one that keeps what is
//! written to its first bytes, behind a byte that says where.

use outboard_vhost_user::FrontendRequest as Code;
use outboard_virtio_defs::i2c::{ERR, F_ZERO_LENGTH_REQUEST, FAIL_NEXT, M_RD, OK, seven_bit, ten_bit};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes as _;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::Placed;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// Where a driver's words are: requests.
const REQUEST: &str = "VIRTIO 1.3, 5.16.6.1";
/// Requests that no driver makes.
const WRONG: &str = "VIRTIO 1.3, 5.16.6.1 (a driver must not; a guest can)";

/// The checks of this group.
pub(super) const CHECKS: &[Check] = checks! {
    "i2c.offers-zero-length", "requests without data are offered: the feature is mandatory", "VIRTIO 1.3, 5.16.3", offers;
    "i2c.refuses-without-zero-length", "a driver that did not agree to them is not served", "VIRTIO 1.3, 5.16.3", refuses;
    "i2c.status-ok", "a write to a chip has the status OK, and length 1", REQUEST, status_ok;
    "i2c.status-absent", "a write to nobody has the status ERR", REQUEST, status_absent;
    "i2c.read-length", "the length of a read counts what was read, and the status", "VIRTIO 1.3, 5.16.6.1 and 2.7.8.2", read_length;
    "i2c.write-then-read", "a read behind a write in its group begins where the write said", REQUEST, write_then_read;
    "i2c.fail-next-skips", "what comes behind a failure in its group is not carried out", REQUEST, fail_next_skips;
    "i2c.fail-next-only-its-group", "a failure ends with its group", REQUEST, fail_next_ends;
    "i2c.fail-next-across-kicks", "a group may come in parts", REQUEST, fail_next_across_kicks;
    "i2c.first-failed-is-err", "each request has a status of its own", REQUEST, first_failed;
    "i2c.zero-length", "requests without data are carried out", REQUEST, zero_length;
    "i2c.ten-bit", "an address of 10 bits is not one of 7", REQUEST, ten_bits;
    "i2c.address-malformed", "what is no address is nobody's", WRONG, address_malformed;
    "i2c.flags-reserved", "flags that there are not are refused", WRONG, flags_reserved;
    "i2c.direction-disagrees", "a request that reads and writes is refused", WRONG, directions;
    "i2c.no-status-byte", "a request without room for a status does no harm", WRONG, no_status;
    "i2c.huge-length", "messages that are too long for a bus are refused", WRONG, huge;
    "i2c.in-order", "requests are carried out in the order of the queue", "VIRTIO 1.3, 5.16.6.3", in_order;
    "i2c.split-anywhere", "a request may lie in buffers of any length", "VIRTIO 1.3, 2.7.4.1", split_anywhere;
    "i2c.write-buffer-untouched", "what is to be written stays as it is", "VIRTIO 1.3, 2.7.5.1", untouched;
};

/// A request: who is meant, as in the header; flags; what is written; and how much is read.
#[derive(Clone, Copy)]
struct Ask<'a>(u16, u32, &'a [u8], u32);

impl Ask<'_> {
    fn sample(self) -> Sample {
        let Self(addr, flags, data, room) = self;
        let header = [addr.to_le_bytes().as_slice(), &[0; 2], &flags.to_le_bytes()].concat();
        let readable = [header, data.to_vec()].into_iter().filter(|bytes| !bytes.is_empty()).collect();
        let writable = [room, 1].into_iter().filter(|len| *len > 0).collect();
        Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) }
    }
}

/// What came back: the status, what was read, and the length.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u8,
    data: Vec<u8>,
    len: u32,
}

fn is_i2c(cx: &Cx) -> Checked {
    if cx.kind == Kind::I2c {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// The chip to talk to, as the header has it, for checks that need one.
fn chip(cx: &Cx) -> Checked<u16> {
    is_i2c(cx)?;
    match cx.chip {
        Some(address) => Ok(seven_bit(address)),
        None => Err(Stop::Skip("no chip to write to was named: --i2c-chip".to_owned())),
    }
}

/// Room for eight requests in pieces.
fn setup(format: Format) -> Setup {
    Setup { size: 64, ..Setup::new(format) }
}

/// Makes requests at once, and gives all answers.
fn ask(session: &mut Session, asks: &[Ask<'_>]) -> Checked<Vec<Answer>> {
    let samples: Vec<Sample> = asks.iter().map(|ask| ask.sample()).collect();
    let placed = place(session, &samples)?;
    collect(session, &samples, placed)
}

fn place(session: &mut Session, samples: &[Sample]) -> Checked<Vec<Option<Placed>>> {
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let mut placed = Vec::new();
    for (sample, token) in samples.iter().zip(0..) {
        placed.push(Some(ring.place(memory, sample, token)?));
    }
    ring.publish()?;
    Ok(placed)
}

fn collect(
    session: &mut Session,
    samples: &[Sample],
    mut placed: Vec<Option<Placed>>,
) -> Checked<Vec<Answer>> {
    let patience = session.patience;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let mut answers: Vec<Option<Answer>> = samples.iter().map(|_| None).collect();
    for _ in samples {
        let (token, len) = ring.returned(patience)?;
        let at = usize::try_from(token)?;
        let (sample, out) = (samples.get(at), placed.get_mut(at).and_then(Option::take));
        let (Some(sample), Some(out)) = (sample, out) else {
            return Err(Stop::fail("a request was returned twice"));
        };
        let mut data = ring.verify(memory, sample, out, len)?;
        let status = data.pop().unwrap_or(ERR);
        if let Some(place) = answers.get_mut(at) {
            *place = Some(Answer { status, data, len });
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// Makes requests at once, and gives their statuses.
fn statuses(session: &mut Session, asks: &[Ask<'_>]) -> Checked<Vec<u8>> {
    Ok(ask(session, asks)?.into_iter().map(|answer| answer.status).collect())
}

/// Has the chip keep bytes at 0.
fn keep(session: &mut Session, chip: u16, bytes: &[u8]) -> Checked {
    let data = [&[0], bytes].concat();
    let status = statuses(session, &[Ask(chip, 0, &data, 0)])?;
    ensure!(status == [OK], "a write of {} bytes to the chip has status {status:?}", data.len());
    Ok(())
}

/// What the chip keeps from `at` on.
fn kept(session: &mut Session, chip: u16, at: u8, count: u32) -> Checked<Vec<u8>> {
    let answers = ask(session, &[Ask(chip, FAIL_NEXT, &[at], 0), Ask(chip, M_RD, &[], count)])?;
    match answers.as_slice() {
        [Answer { status: OK, .. }, Answer { status: OK, data, .. }] => Ok(data.clone()),
        other => Err(Stop::fail(format!("a read from place {at} of the chip was answered with {other:?}"))),
    }
}

/// An address where nobody answers; `None` if somebody does everywhere.
fn absent(session: &mut Session) -> Checked<Option<u16>> {
    for address in (0x08..0x78).rev() {
        let addr = seven_bit(address);
        if statuses(session, &[Ask(addr, 0, &[], 0)])? == [ERR] {
            return Ok(Some(addr));
        }
    }
    Ok(None)
}

fn somebody_absent(session: &mut Session) -> Checked<u16> {
    absent(session)?.ok_or_else(|| Stop::Skip("somebody answers at each address".to_owned()))
}

fn offers(cx: &mut Cx) -> Checked {
    is_i2c(cx)?;
    ensure!(
        cx.offer.features & F_ZERO_LENGTH_REQUEST != 0,
        "VIRTIO_I2C_F_ZERO_LENGTH_REQUEST is not offered"
    );
    Ok(())
}

/// Refused is: any message on the way, the request itself, or its being served.
fn refuses(cx: &mut Cx) -> Checked {
    is_i2c(cx)?;
    let addr = cx.chip.map_or(seven_bit(3), seven_bit);
    let mut session = Session::silent(cx, &setup(Format::Split))?;
    session.owner()?;
    session.set_protocol()?;
    session.features = session.setup.features(session.offered_features()) & !F_ZERO_LENGTH_REQUEST;
    let features = session.features;
    let told = session.wire.set(Code::SET_FEATURES, features.as_bytes(), &[]);
    let started = told.and_then(|()| session.share()).and_then(|()| {
        let at = session.add_ring(0)?;
        session.start(at)
    });
    if let Err(Stop::Fail(_)) = started {
        return Ok(());
    }
    started?;
    let samples = [Ask(addr, 0, &[], 0).sample()];
    let placed = place(&mut session, &samples);
    let Ok(mut placed) = placed else { return Ok(()) };
    let ring = session.rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let Ok(Some((_, len))) = ring.returned_within(LULL * 2) else { return Ok(()) };
    if let (Some(sample), Some(out)) = (samples.first(), placed.pop().flatten()) {
        let written = ring.verify(&mut session.memory, sample, out, len)?;
        ensure!(written == [ERR], "a driver without VIRTIO_I2C_F_ZERO_LENGTH_REQUEST is served");
        cx.note(
            "requests of a driver without VIRTIO_I2C_F_ZERO_LENGTH_REQUEST have the status ERR".to_owned(),
        );
    }
    Ok(())
}

fn status_ok(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let answers = ask(&mut session, &[Ask(chip, 0, &[0], 0)])?;
        let expected = Answer { status: OK, data: Vec::new(), len: 1 };
        ensure!(answers == [expected], "a write of one byte was answered with {answers:?}");
        Ok(())
    })
}

fn status_absent(cx: &mut Cx) -> Checked {
    is_i2c(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        ensure!(absent(&mut session)?.is_some(), "a chip answers at each of 112 addresses");
        Ok(())
    })
}

fn read_length(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        for count in [1, 2, 7, 32] {
            let answers = ask(&mut session, &[Ask(chip, M_RD, &[], count)])?;
            let found = answers.first().map(|answer| (answer.status, answer.len));
            ensure!(found == Some((OK, count + 1)), "a read of {count} has status and length {found:?}");
        }
        Ok(())
    })
}

fn write_then_read(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        for bytes in [[1, 2, 3, 4], [0xf0, 0x0f, 0, 0xff]] {
            keep(&mut session, chip, &bytes)?;
            for at in 0..4 {
                let found = kept(&mut session, chip, at as u8, 4 - at as u32)?;
                let expected = bytes.get(at..).unwrap_or_default();
                ensure!(found == expected, "of {bytes:?}, {found:?} were read from place {at} on");
            }
        }
        Ok(())
    })
}

fn fail_next_skips(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let nobody = somebody_absent(&mut session)?;
        keep(&mut session, chip, &[1])?;
        let status = statuses(&mut session, &[Ask(nobody, FAIL_NEXT, &[0], 0), Ask(chip, 0, &[0, 2], 0)])?;
        ensure!(status == [ERR, ERR], "a write behind one that failed, in its group: {status:?}");
        let found = kept(&mut session, chip, 0, 1)?;
        ensure!(found == [1], "what came behind a failure was written");
        Ok(())
    })
}

fn fail_next_ends(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let nobody = somebody_absent(&mut session)?;
        let asks = [
            Ask(nobody, FAIL_NEXT, &[0], 0),
            Ask(chip, 0, &[0], 0),
            Ask(chip, 0, &[0], 0),
            Ask(chip, 0, &[0], 0),
        ];
        let status = statuses(&mut session, &asks)?;
        ensure!(status == [ERR, ERR, OK, OK], "two that failed together, and two others: {status:?}");
        Ok(())
    })
}

fn fail_next_across_kicks(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let nobody = somebody_absent(&mut session)?;
        keep(&mut session, chip, &[1])?;
        let samples = [Ask(nobody, FAIL_NEXT, &[0], 0).sample(), Ask(chip, 0, &[0, 2], 0).sample()];
        let mut placed = Vec::new();
        for (sample, token) in samples.iter().zip(0..) {
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
            placed.push(Some(ring.place(memory, sample, token)?));
            ring.publish()?;
            std::thread::sleep(LULL / 2);
        }
        let answers = collect(&mut session, &samples, placed)?;
        let found: Vec<u8> = answers.iter().map(|answer| answer.status).collect();
        ensure!(found == [ERR, ERR], "a group in two kicks, of which the first failed: {found:?}");
        Ok(())
    })
}

fn first_failed(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let nobody = somebody_absent(&mut session)?;
        let status = statuses(&mut session, &[Ask(chip, FAIL_NEXT, &[0], 0), Ask(nobody, 0, &[0], 0)])?;
        ensure!(status.last() == Some(&ERR), "a write to nobody, second of its group: {status:?}");
        if status.first() == Some(&ERR) {
            cx.note("the first of a group has the status ERR if the second fails".to_owned());
        }
        Ok(())
    })
}

fn zero_length(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let answers = ask(&mut session, &[Ask(chip, 0, &[], 0), Ask(chip, M_RD, &[], 0)])?;
        let found: Vec<_> = answers.iter().map(|answer| (answer.status, answer.len)).collect();
        let [(OK, 1), (OK | ERR, 1)] = found[..] else {
            return Err(Stop::fail(format!("a write and a read of nothing: status and length {found:?}")));
        };
        Ok(())
    })
}

fn ten_bits(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    let low = chip >> 1;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        keep(&mut session, chip, &[1])?;
        for long in [low, low | 0x80, low | 0x100, low | 0x300] {
            ask(&mut session, &[Ask(ten_bit(long), 0, &[0, 2], 0)])?;
            let found = kept(&mut session, chip, 0, 1)?;
            ensure!(found == [1], "a write to {long:#05x}, of 10 bits, came to the chip at {low:#04x}");
        }
        Ok(())
    })
}

/// Asserts that each of these has the status ERR, and that the chip keeps what it has.
fn all_refused(cx: &mut Cx, asks: impl Fn(u16) -> Vec<Ask<'static>>) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        keep(&mut session, chip, &[1])?;
        for ask in asks(chip) {
            let Ask(addr, flags, data, room) = ask;
            let status = statuses(&mut session, &[ask])?;
            let (count, found) = (data.len(), kept(&mut session, chip, 0, 1)?);
            ensure!(
                status == [ERR] && found == [1],
                "address {addr:#06x}, flags {flags:#x}, {count} bytes to write, {room} to read: status {status:?}"
            );
        }
        Ok(())
    })
}

fn address_malformed(cx: &mut Cx) -> Checked {
    all_refused(cx, |chip| {
        [chip | 1, chip | 0x100, chip | 0x8000].map(|addr| Ask(addr, 0, &[0, 2], 0)).to_vec()
    })
}

fn flags_reserved(cx: &mut Cx) -> Checked {
    all_refused(cx, |chip| [1 << 2, 1 << 31].map(|flags| Ask(chip, flags, &[0, 2], 0)).to_vec())
}

fn directions(cx: &mut Cx) -> Checked {
    all_refused(cx, |chip| vec![Ask(chip, 0, &[0, 2], 3), Ask(chip, M_RD, &[0, 2], 3)])
}

fn no_status(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let sample = Sample { writable: Vec::new(), ..Ask(chip, 0, &[0], 0).sample() };
        let mut placed = place(&mut session, std::slice::from_ref(&sample))?;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        match (ring.returned_within(LULL * 2)?, placed.pop().flatten()) {
            (Some((_, len)), Some(out)) => {
                ensure!(len == 0, "without anything to write the length is {len}");
                ring.verify(memory, &sample, out, len)?;
            }
            _ => cx.note(format!("{format:?}: a request without room for a status is not returned")),
        }
        session.wire.barrier()?;
        drop(session);
        Session::ready(cx, &setup(format))?.request().map(drop)
    })
}

fn huge(cx: &mut Cx) -> Checked {
    static LONG: [u8; 70_000] = [0; 70_000];
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        let asks = [Ask(chip, 0, &LONG, 0), Ask(chip, M_RD, &[], 70_000), Ask(chip, 0, &[0], 0)];
        let status = statuses(&mut session, &asks)?;
        ensure!(status == [ERR, ERR, OK], "70,000 bytes to write, as many to read, and one: {status:?}");
        Ok(())
    })
}

fn in_order(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        for last in [9_u8, 17] {
            let data: Vec<[u8; 2]> = (last - 6..=last).map(|byte| [0, byte]).collect();
            let asks: Vec<Ask<'_>> = data.iter().map(|data| Ask(chip, 0, data, 0)).collect();
            let status = statuses(&mut session, &asks)?;
            ensure!(status.iter().all(|status| *status == OK), "writes to the chip: {status:?}");
            let found = kept(&mut session, chip, 0, 1)?;
            ensure!(found == [last], "of seven writes the last is {last}, and {found:?} was kept");
        }
        Ok(())
    })
}

fn split_anywhere(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        keep(&mut session, chip, &[1, 2, 3, 4])?;
        for lengths in [&[1][..], &[3], &[5, 2], &[9], &[64]] {
            let samples = [Ask(chip, FAIL_NEXT, &[1], 0), Ask(chip, M_RD, &[], 3)];
            let samples = samples.map(|ask| ask.sample().merged().cut(lengths));
            let placed = place(&mut session, &samples)?;
            let answers = collect(&mut session, &samples, placed)?;
            let found = answers.last().map(|answer| (answer.status, answer.data.as_slice()));
            ensure!(found == Some((OK, &[2, 3, 4])), "in buffers of {lengths:?}: {found:?}");
        }
        Ok(())
    })
}

/// Holding what the device may only read against what it was is what each request here does.
fn untouched(cx: &mut Cx) -> Checked {
    let chip = chip(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &setup(format))?;
        keep(&mut session, chip, &[1, 2, 3])?;
        let found = kept(&mut session, chip, 0, 3)?;
        ensure!(found == [1, 2, 3], "three bytes were written, and {found:?} kept");
        Ok(())
    })
}
