use zerocopy::IntoBytes;

use super::*;
use crate::message::{BackendRequest, FrontendRequest, MessageId, flags};

const FRONT: Side = Side::FrontEnd;
const BACK: Side = Side::BackEnd;
const ASK: u32 = flags::VERSION;
const NEED: u32 = flags::VERSION | flags::NEED_REPLY;
const ANSWER: u32 = flags::OF_REPLY;

/// A dialogue as it goes by; time advances by a millisecond with each message.
struct Dialogue {
    observer: Observer,
    time: Duration,
}

impl Dialogue {
    fn new() -> Self {
        Self { observer: Observer::new(Some(DeviceId::BLK)), time: Duration::ZERO }
    }

    fn raw(&mut self, channel: u16, from: Side, bytes: Vec<u8>, fds: usize) -> Observed {
        self.time += Duration::from_millis(1);
        let fd = Descriptor { kind: DescriptorKind::Event, size: 0, name: "eventfd".to_owned() };
        let len = bytes.len() as u64;
        let (channel, fds) = (Channel(channel), vec![fd; fds]);
        self.observer.see(&Seen { connection: 1, channel, from, time: self.time, bytes, len, fds })
    }

    fn back_channel(&mut self, from: Side, code: BackendRequest, flags: u32, body: &[u8]) -> Observed {
        self.raw(1, from, message(code.0, flags, body), 0)
    }

    fn main(&mut self, from: Side, code: FrontendRequest, flags: u32, body: &[u8], fds: usize) -> Observed {
        self.raw(0, from, message(code.0, flags, body), fds)
    }

    /// Agrees on everything that exists.
    fn agreed() -> Self {
        let mut this = Self::new();
        let bits = ((1_u64 << 30) | (1 << 32)).to_ne_bytes();
        let protocol = 0xff_ffff_u64.to_ne_bytes();
        for (from, code, flags, body) in [
            (FRONT, FrontendRequest::GET_FEATURES, ASK, &[][..]),
            (BACK, FrontendRequest::GET_FEATURES, ANSWER, &bits),
            (FRONT, FrontendRequest::GET_PROTOCOL_FEATURES, ASK, &[]),
            (BACK, FrontendRequest::GET_PROTOCOL_FEATURES, ANSWER, &protocol),
            (FRONT, FrontendRequest::SET_PROTOCOL_FEATURES, ASK, &protocol),
            (FRONT, FrontendRequest::SET_FEATURES, ASK, &bits),
        ] {
            assert_eq!(this.main(from, code, flags, body, 0).warnings, [""; 0], "{code}");
        }
        this
    }
}

fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Header { request: code, flags, size: body.len() as u32 }.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn text(observed: &Observed) -> String {
    let fields = observed.fields.as_ref().expect("decoded");
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn answer_is_matched_to_its_request_with_its_latency() {
    let mut dialogue = Dialogue::new();
    let asked = dialogue.main(FRONT, FrontendRequest::GET_FEATURES, ASK, &[], 0);
    assert!(asked.awaits && asked.warnings.is_empty());
    assert_eq!(dialogue.observer.unanswered().count(), 1);
    let bits = (1_u64 << 32) | (1 << 9) | (1 << 23);
    let answer = dialogue.main(BACK, FrontendRequest::GET_FEATURES, ANSWER, &bits.to_ne_bytes(), 0);
    assert_eq!(answer.answers, Some(Answered { number: 1, latency: Duration::from_millis(1) }));
    assert_eq!(text(&answer), "features=0x100800200 [FLUSH 23 VERSION_1]");
    assert_eq!(dialogue.observer.unanswered().count(), 0);
}

#[test]
fn ack_is_due_only_with_reply_ack() {
    let body = [0_u8; 8];
    let mut dialogue = Dialogue::new();
    assert!(!dialogue.main(FRONT, FrontendRequest::SET_VRING_BASE, NEED, &body, 0).awaits);
    let mut dialogue = Dialogue::agreed();
    assert!(!dialogue.main(FRONT, FrontendRequest::SET_VRING_BASE, ASK, &body, 0).awaits);
    assert!(dialogue.main(FRONT, FrontendRequest::SET_VRING_BASE, NEED, &body, 0).awaits);
    let nack = dialogue.main(BACK, FrontendRequest::SET_VRING_BASE, ANSWER, &1_u64.to_ne_bytes(), 0);
    assert_eq!((text(&nack).as_str(), nack.warnings.len()), ("result=refused value=0x1", 0));
}

#[test]
fn answer_that_breaks_the_rules_is_named() {
    let mut dialogue = Dialogue::agreed();
    let cases: [(FrontendRequest, u32, &[u8], &str); 5] = [
        (FrontendRequest::GET_QUEUE_NUM, NEED | 4, &[0; 8], "header flags 0xd where 0x5 belongs"),
        (FrontendRequest::GET_QUEUE_NUM, ANSWER, &[0; 4], "malformed"),
        (FrontendRequest::GET_STATUS, ANSWER, &[0; 8], "the answer to #7 GET_QUEUE_NUM is due"),
        (FrontendRequest::GET_QUEUE_NUM, ANSWER, &[0; 8], ""),
        (FrontendRequest::GET_QUEUE_NUM, ANSWER, &[0; 8], "no answer is due"),
    ];
    for (nth, (code, flags, body, warning)) in cases.into_iter().enumerate() {
        if nth < 4 {
            dialogue.observer.count = 6;
            dialogue.main(FRONT, FrontendRequest::GET_QUEUE_NUM, ASK, &[], 0);
        }
        let warnings = dialogue.main(BACK, code, flags, body, 0).warnings;
        assert_eq!(warnings.len(), usize::from(!warning.is_empty()), "{warnings:?}");
        assert!(warnings.iter().all(|text| text.contains(warning)), "{warnings:?}");
    }
}

#[test]
fn answer_about_another_ring_is_named() {
    let mut dialogue = Dialogue::agreed();
    dialogue.main(FRONT, FrontendRequest::GET_VRING_BASE, ASK, &[1, 0, 0, 0, 0, 0, 0, 0], 0);
    let answer = dialogue.main(BACK, FrontendRequest::GET_VRING_BASE, ANSWER, &[0; 8], 0);
    assert_eq!(answer.warnings, ["says 0 where the request said 1"]);
}

#[test]
fn request_that_breaks_the_rules_is_named() {
    let ring = |num: u32| [0_u32.to_ne_bytes(), num.to_ne_bytes()].concat();
    let cases: [(FrontendRequest, u32, Vec<u8>, usize, &str); 9] = [
        (FrontendRequest(99), ASK, vec![], 0, "no such message"),
        (FrontendRequest::SET_OWNER, ASK | 4, vec![], 0, "header flags 0x5"),
        (FrontendRequest::SET_OWNER, 2, vec![], 0, "header flags 0x2"),
        (FrontendRequest::SET_OWNER, ASK, vec![0], 0, "malformed"),
        (FrontendRequest::SET_VRING_KICK, ASK, vec![0; 8], 0, "0 descriptors came where 1 belong"),
        (FrontendRequest::SET_OWNER, ASK, vec![], 3, "3 descriptors came where 0 belong"),
        (FrontendRequest::SET_VRING_NUM, ASK, ring(40_000), 0, "ring size 40000 is out of range"),
        (FrontendRequest::SET_VRING_ENABLE, ASK, ring(2), 0, "2 is neither 0 nor 1"),
        (
            FrontendRequest::SET_FEATURES,
            ASK,
            (1_u64 << 9).to_ne_bytes().to_vec(),
            0,
            "0x200 were not offered",
        ),
    ];
    for (code, flags, body, fds, warning) in cases {
        let warnings = Dialogue::agreed().main(FRONT, code, flags, &body, fds).warnings;
        assert!(warnings.iter().any(|text| text.contains(warning)), "{code}: {warnings:?}");
    }
    let warnings = Dialogue::new().main(FRONT, FrontendRequest::GET_STATUS, ASK, &[], 0).warnings;
    assert_eq!(warnings, ["GET_STATUS: needs STATUS, which is not negotiated"]);
}

#[test]
fn request_before_the_answer_to_the_one_before_is_out_of_turn() {
    let mut dialogue = Dialogue::agreed();
    dialogue.main(FRONT, FrontendRequest::GET_QUEUE_NUM, ASK, &[], 0);
    let early = dialogue.main(FRONT, FrontendRequest::SET_OWNER, ASK, &[], 0);
    assert_eq!(early.warnings, ["out of turn: #7 GET_QUEUE_NUM has no answer yet"]);
}

#[test]
fn back_channel_has_turns_of_its_own() {
    let mut dialogue = Dialogue::agreed();
    dialogue.main(FRONT, FrontendRequest::GET_QUEUE_NUM, ASK, &[], 0);
    let change = dialogue.back_channel(BACK, BackendRequest::CONFIG_CHANGE_MSG, NEED, &[]);
    assert!(change.awaits && change.warnings.is_empty());
    assert_eq!(change.id, Some(MessageId::Backend(BackendRequest::CONFIG_CHANGE_MSG)));
    let ack = dialogue.back_channel(FRONT, BackendRequest::CONFIG_CHANGE_MSG, ANSWER, &[0; 8]);
    assert_eq!(ack.answers.map(|answered| answered.number), Some(change.number));
    let left: Vec<u64> = dialogue.observer.unanswered().map(|unanswered| unanswered.number).collect();
    assert_eq!(left, [7]);
}

#[test]
fn memory_table_shows_each_region() {
    let mut dialogue = Dialogue::agreed();
    let mut body = [2_u32, 0].as_bytes().to_vec();
    body.extend_from_slice(
        [0_u64, 0x1000, 0x7f00_0000_0000, 0, 0x1_0000, 0x2000, 0x7f00_0001_0000, 8].as_bytes(),
    );
    let table = dialogue.main(FRONT, FrontendRequest::SET_MEM_TABLE, ASK, &body, 2);
    assert_eq!(table.warnings, [""; 0]);
    assert_eq!(
        text(&table),
        "regions={guest=0x0 size=0x1000 user=0x7f0000000000 offset=0x0} \
         {guest=0x10000 size=0x2000 user=0x7f0000010000 offset=0x8}"
    );
}

#[test]
fn message_cut_short_is_not_decoded_and_says_why() {
    let mut dialogue = Dialogue::new();
    let header = dialogue.raw(0, FRONT, vec![1, 2, 3], 0);
    assert_eq!(
        (header.id, header.warnings.as_slice()),
        (None, &["cut off after 3 bytes of its header".into()][..])
    );
    let mut bytes = message(FrontendRequest::SET_FEATURES.0, ASK, &[0; 8]);
    bytes.truncate(15);
    let body = dialogue.raw(0, FRONT, bytes, 0);
    assert!(body.fields.is_none());
    assert_eq!(body.warnings, ["cut off after 15 of 20 bytes"]);
}

#[test]
fn message_too_long_to_be_kept_says_so() {
    let bytes = message(FrontendRequest::SET_OWNER.0, ASK, &vec![0; CAPTURE + 1]);
    let (len, kept) = (bytes.len() as u64, bytes[..Header::LEN + CAPTURE].to_vec());
    let (connection, channel, from, time) = (1, Channel::MAIN, FRONT, Duration::ZERO);
    let seen = Seen { connection, channel, from, time, bytes: kept, len, fds: Vec::new() };
    let observed = Observer::new(None).see(&seen);
    assert!(observed.fields.is_none());
    assert_eq!(observed.warnings, ["longer than any message can be"]);
}

#[test]
fn requests_without_end_are_not_remembered_without_end() {
    let mut dialogue = Dialogue::agreed();
    for _ in 0..5000 {
        dialogue.main(FRONT, FrontendRequest::GET_QUEUE_NUM, ASK, &[], 0);
    }
    assert_eq!(dialogue.observer.unanswered().count(), 1024);
}

#[test]
fn every_request_decodes_a_payload_that_its_front_end_writes() {
    for &code in FrontendRequest::ALL {
        // One of these sizes is right for each.
        let fits = [0, 8, 12, 16, 24, 32, 40].iter().any(|&size| {
            let body = vec![0; size];
            payload::of_request(code, &body, None).is_ok()
        });
        assert!(fits, "{code}");
    }
    for &code in BackendRequest::ALL {
        let fits =
            [0, 8, 16, 24, 32, 40].iter().any(|&size| payload::of_back_request(code, &vec![0; size]).is_ok());
        assert!(fits, "{code}");
    }
}
