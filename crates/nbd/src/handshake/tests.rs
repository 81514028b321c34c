use super::*;

fn greeting(flags: u16) -> Vec<u8> {
    [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn answer(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    [
        &OPTION_REPLY_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &len.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    let info = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    answer(OPT_GO, REP_INFO, &info)
}

fn blocks(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
    let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    [minimum, preferred, maximum].iter().for_each(|size| info.extend(size.to_be_bytes()));
    answer(OPT_GO, REP_INFO, &info)
}

/// Lets a server say all of `said`: what the client sent, and how it ended.
fn talk(tls: bool, said: &[Vec<u8>]) -> (Vec<u8>, Result<Option<Export>, Error>) {
    let mut handshake = Handshake::new(Terms { export: "disk".into(), tls });
    let (all, mut sent) = (said.concat(), Vec::new());
    let mut rest = all.as_slice();
    while let Some(bytes) = rest.split_off(..handshake.wanted()) {
        match handshake.receive(bytes) {
            Ok(Step::Send(bytes)) => sent.extend(bytes),
            Ok(Step::Encrypt) => sent.extend(handshake.encrypted()),
            Ok(Step::Ready(export)) => {
                assert!(rest.is_empty());
                return (sent, Ok(Some(export)));
            }
            Err(error) => return (sent, Err(error)),
        }
    }
    (sent, Ok(None))
}

fn error(tls: bool, said: &[Vec<u8>]) -> String {
    talk(tls, said).1.unwrap_err().to_string()
}

const ACK_STRUCTURED: (u32, u32) = (OPT_STRUCTURED_REPLY, REP_ACK);

fn ack((option, kind): (u32, u32)) -> Vec<u8> {
    answer(option, kind, &[])
}

#[test]
fn handshake_with_all_there_is_gives_the_export() {
    let flags = HAS_FLAGS | SEND_FLUSH | SEND_TRIM | CAN_MULTI_CONN;
    let (sent, end) = talk(
        true,
        &[
            greeting(3),
            answer(OPT_STARTTLS, REP_ACK, &[]),
            ack(ACK_STRUCTURED),
            export(1 << 30, flags),
            answer(OPT_GO, REP_INFO, b"\0\x02a description"),
            blocks(4096, 65536, 1 << 20),
            answer(OPT_GO, REP_ACK, &[]),
        ],
    );
    let export = end.unwrap().unwrap();
    assert_eq!((export.size, export.minimum_block, export.preferred_block), (1 << 30, 4096, 65536));
    assert_eq!((export.maximum_payload, export.structured), (1 << 20, true));
    assert!(export.can_flush() && export.can_trim() && export.can_share());
    assert!(!export.can_fua() && !export.can_zero() && !export.is_read_only());
    let mut expected = vec![0, 0, 0, 3];
    for (option, data) in
        [(OPT_STARTTLS, &b""[..]), (OPT_STRUCTURED_REPLY, b""), (OPT_GO, b"\0\0\0\x04disk\0\x01\0\x03")]
    {
        expected.extend(b"IHAVEOPT");
        expected.extend(option.to_be_bytes());
        expected.extend((data.len() as u32).to_be_bytes());
        expected.extend(data);
    }
    assert_eq!(sent, expected);
}

#[test]
fn handshake_with_an_old_server_asks_by_name() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let (sent, end) = talk(
            false,
            &[
                greeting(flags),
                answer(OPT_STRUCTURED_REPLY, REP_ERR_UNSUP, b"what?"),
                answer(OPT_GO, REP_ERR_UNSUP, &[]),
                (1_u64 << 20).to_be_bytes().to_vec(),
                (HAS_FLAGS | READ_ONLY).to_be_bytes().to_vec(),
                vec![0; zeroes],
            ],
        );
        let export = end.unwrap().unwrap();
        assert_eq!((export.size, export.minimum_block, export.structured), (1 << 20, 512, false));
        assert_eq!(export.maximum_payload, 32 << 20);
        assert!(export.is_read_only());
        assert!(sent.ends_with(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk"));
    }
}

#[test]
fn flags_without_the_flag_for_flags_mean_nothing() {
    let said = [greeting(3), ack(ACK_STRUCTURED), export(512, !HAS_FLAGS), answer(OPT_GO, REP_ACK, &[])];
    let export = talk(false, &said).1.unwrap().unwrap();
    assert!(!export.is_read_only() && !export.can_flush() && !export.can_share());
}

#[test]
fn refusals_say_why() {
    let after = |answer: Vec<u8>| [greeting(3), ack(ACK_STRUCTURED), answer];
    let cases = [
        (REP_ERR_UNKNOWN, "no export \"disk\""),
        (REP_ERR_TLS_REQD, "nbds://"),
        (REP_ERR_POLICY, "does not let"),
        (REP_ERR_SHUTDOWN, "shutting down"),
        (REP_ERR_BLOCK_SIZE_REQD, "block sizes"),
        (REP_ERROR + 99, "error 99"),
    ];
    for (kind, reason) in cases {
        let said = error(false, &after(answer(OPT_GO, kind, b"its\nwords")));
        assert!(said.contains(reason) && said.contains("its\\nwords"), "{said}");
    }
    assert!(error(true, &[greeting(3), answer(OPT_STARTTLS, REP_ERR_UNSUP, &[])]).contains("has no TLS"));
    assert!(
        error(false, &[greeting(3), answer(OPT_STRUCTURED_REPLY, REP_ERR_TLS_REQD, &[])]).contains("nbds")
    );
    assert!(error(false, &[greeting(0)]).contains("too old"));
    let old = [&MAGIC.to_be_bytes()[..], &OLD_MAGIC.to_be_bytes(), &[0, 0]].concat();
    assert!(error(false, &[old]).contains("too old"));
}

#[test]
fn server_that_breaks_the_protocol_is_told_apart() {
    let go = |answers: &[Vec<u8>]| [&[greeting(3), ack(ACK_STRUCTURED)], answers].concat();
    let mut bad_magic = answer(OPT_GO, REP_ACK, &[]);
    bad_magic[0] ^= 1;
    let mut endless = vec![export(512, 1)];
    endless.extend(std::iter::repeat_n(answer(OPT_GO, REP_INFO, b"\0\x01name"), 64));
    let mut huge = answer(OPT_GO, REP_INFO, &[]);
    huge[16..].copy_from_slice(&u32::MAX.to_be_bytes());
    let cases = [
        (vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()], "NBDMAGIC"),
        (vec![[&MAGIC.to_be_bytes()[..], &[7; 10]].concat()], "IHAVEOPT"),
        (go(&[bad_magic]), "magic"),
        (go(&[answer(OPT_STARTTLS, REP_ACK, &[])]), "not asked for"),
        (go(&[huge]), "absurdly long"),
        (go(&endless), "without end"),
        (go(&[answer(OPT_GO, REP_ACK, &[])]), "size of the export"),
        (go(&[export(u64::MAX, 1), answer(OPT_GO, REP_ACK, &[])]), "absurd"),
        (go(&[answer(OPT_GO, REP_INFO, b"\0\0short")]), "wrong length"),
        (go(&[answer(OPT_GO, REP_INFO, b"\0")]), "wrong length"),
        (go(&[answer(OPT_GO, 2, &[])]), "wrong type"),
        (vec![greeting(3), answer(OPT_STRUCTURED_REPLY, REP_ACK, b"?")], "payload"),
    ];
    for (said, reason) in cases {
        let said = error(false, &said);
        assert!(said.contains("breaks the NBD protocol") && said.contains(reason), "{said}");
    }
    for sizes in
        [(0, 4096, 4096), (3, 4096, 4096), (1 << 17, 1 << 17, 1 << 20), (512, 256, 4096), (4096, 4096, 512)]
    {
        let (minimum, preferred, maximum) = sizes;
        let said =
            go(&[export(1 << 20, 1), blocks(minimum, preferred, maximum), answer(OPT_GO, REP_ACK, &[])]);
        assert!(error(false, &said).contains("make no sense"), "{sizes:?}");
    }
}
