//! A disk on an NBD server that is as it should be, goes away, or lies.

use std::time::{Duration, Instant};

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES};

use super::nbd_server::{COOKIE, Offer, Server, Trick, chunk};
use super::*;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

fn honest() -> Offer {
    Offer::of(pattern(0, SIZE))
}

fn options(server: &Server) -> BlkOptions {
    BlkOptions { nbd: Some(server.uri()), ..BlkOptions::default() }
}

fn disk(server: &Server) -> Disk {
    disk_with(&options(server), AGREED)
}

fn disk_with(options: &BlkOptions, agreed: Features) -> Disk {
    Disk::open(options, None, Format::Split, agreed)
}

fn refusal(server: &Server, options: &BlkOptions) -> String {
    let error = Blk::open(options).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot open {}: ", server.uri())), "{error}");
    error
}

#[test]
fn requests_of_each_kind_reach_the_server() {
    for format in FORMATS {
        for structured in [false, true] {
            let server = Server::start(Offer { structured, ..honest() });
            let mut disk = Disk::open(&options(&server), None, format, AGREED);
            assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
            assert_eq!(disk.write(3, &[0x3c; 1024]), S_OK);
            assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
            assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(8, 8, 0), (24, 1, 0)]), 0).1, S_OK);
            assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(16, 2, 0)]), 0).1, S_OK);
            assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(20, 2, 1)]), 0).1, S_OK);
            let offer = server.offer();
            let expected = [
                (READ, 0, 0, SIZE as u32),
                (WRITE, 0, 1536, 1024),
                (FLUSH, 0, 0, 0),
                (TRIM, 0, 4096, 4096),
                (TRIM, 0, 24 * 512, 512),
                (WRITE_ZEROES, 2, 8192, 1024),
                (WRITE_ZEROES, 0, 20 * 512, 1024),
            ];
            assert_eq!(offer.log, expected);
            assert_eq!(offer.bytes[1536..2560], [0x3c; 1024]);
            assert_eq!(offer.bytes[8192..9216], [0; 1024]);
            assert_eq!(offer.bytes[2560..8192], pattern(0, SIZE)[2560..8192]);
        }
    }
}

#[test]
fn requests_longer_than_the_server_takes_are_cut() {
    let server = Server::start(Offer { blocks: Some([512, 4096, 8192]), ..honest() });
    let mut disk = disk(&server);
    assert_eq!(disk.read(1, 20 << 10), pattern(512, 20 << 10));
    assert_eq!(disk.write(1, &[0x3c; 9 << 10]), S_OK);
    let offer = server.offer();
    let lengths: Vec<u32> = offer.log.iter().map(|&(.., len)| len).collect();
    assert_eq!(lengths, [8192, 8192, 4096, 8192, 1024]);
    assert_eq!(offer.bytes[512..512 + 9216], [0x3c; 9 << 10]);
    assert_eq!(offer.bytes[512 + 9216..], pattern(0, SIZE)[512 + 9216..]);
}

#[test]
fn many_requests_at_a_time_are_each_answered_with_their_own() {
    for format in FORMATS {
        let server = Server::start(honest());
        let mut disk = Disk::open(&options(&server), None, format, AGREED);
        let queue = QueueId(0);
        for round in 0..20 {
            let expected: Vec<_> = (0..50_usize)
                .map(|nth| {
                    let sector = (nth * 37 + round) % 120;
                    (disk.bench.send(queue, &[&header(T_IN, sector as u64)], &[512, 1]), sector)
                })
                .collect();
            disk.bench.run();
            for _ in 0..50 {
                let answer = disk.bench.receive(queue).unwrap();
                let sector = expected.iter().find(|(token, _)| *token == answer.token).unwrap().1;
                assert_eq!(answer.outputs, [pattern(sector * 512, 512), vec![S_OK]]);
            }
        }
    }
}

#[test]
fn write_that_must_be_stable_is_by_flag_or_by_flush() {
    for (flags, expected) in
        [(1 | 4 | 8, vec![(WRITE, 1)]), (1 | 4, vec![(WRITE, 0), (FLUSH, 0)]), (1, vec![(WRITE, 0)])]
    {
        let server = Server::start(Offer { flags, ..honest() });
        let mut disk = disk_with(&BlkOptions { writeback: false, ..options(&server) }, AGREED);
        assert_eq!(disk.write(0, &[1; 512]), S_OK);
        let said: Vec<_> = server.offer().log.iter().map(|&(command, flags, ..)| (command, flags)).collect();
        assert_eq!(said, expected);
    }
}

#[test]
fn server_that_can_do_little_serves_what_it_can() {
    let server = Server::start(Offer { flags: 1, ..honest() });
    let mut disk = disk(&server);
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
    assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(8, 8, 0)]), 0).1, S_UNSUPP);
    assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(8, 8, 1)]), 0).1, S_OK);
    assert_eq!(server.offer().bytes[4096..8192], [0; 4096]);
    assert_eq!(server.offer().log, [(WRITE, 0, 4096, 4096)], "zeroes are written");
}

#[test]
fn errors_of_the_server_are_the_guests() {
    for structured in [false, true] {
        let server = Server::start(Offer { structured, ..honest() });
        let mut disk = disk(&server);
        for error in [5, 12, 22, 28, 9999] {
            for (kind, data, room) in [(T_IN, vec![], 512), (T_OUT, vec![1; 512], 0)] {
                server.offer().tricks.push_back(Trick::Errno(error));
                assert_eq!(disk.request(kind, 0, &data, room).1, S_IOERR, "{error}");
            }
        }
        assert_eq!(disk.read(3, 512), pattern(3 * 512, 512), "it goes on");
        assert_eq!(server.offer().connections, 1);
    }
}

#[test]
fn requests_under_way_when_the_server_goes_are_asked_again() {
    for trick in [Trick::HangUp, Trick::Half, Trick::Errno(108)] {
        let server = Server::start(honest());
        let mut disk = disk(&server);
        server.offer().tricks.extend([Trick::Honest, trick.clone()]);
        server.offer().refusals = 2;
        let queue = QueueId(0);
        for sector in 0..10 {
            disk.bench.send(queue, &[&header(T_IN, sector)], &[512, 1]);
        }
        for sector in 10..20 {
            disk.bench.send(queue, &[&header(T_OUT, sector), &[sector as u8; 512]], &[1]);
        }
        disk.bench.run();
        for _ in 0..20 {
            let answer = disk.bench.receive(queue).unwrap();
            assert_eq!(answer.outputs.last().unwrap(), &[S_OK], "{trick:?}");
        }
        assert_eq!(disk.read(0, 5120), pattern(0, 5120));
        let offer = server.offer();
        assert_eq!(offer.connections, 4, "the first, two refusals, the next");
        for sector in 10..20_usize {
            assert_eq!(offer.bytes[sector * 512..(sector + 1) * 512], [sector as u8; 512]);
        }
    }
}

#[test]
fn server_that_lies_loses_the_connection_and_nothing_else() {
    let simple = |error: u32, cookie: [u8; 8]| {
        [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie].concat()
    };
    let data = |offset: u64, len: usize| [&offset.to_be_bytes()[..], &vec![9; len]].concat();
    let lies = [
        b"HTTP/1.1 400 Bad Request".to_vec(),
        simple(0, *b"nobody's"),
        simple(0, COOKIE),
        chunk(1, 0, COOKIE, &[]),
        chunk(1, 1, COOKIE, &data(0, 511)),
        chunk(1, 1, COOKIE, &data(0, 513)),
        chunk(1, 1, COOKIE, &data(512, 512)),
        chunk(1, 1, COOKIE, &data(u64::MAX - 3, 512)),
        [chunk(0, 1, COOKIE, &data(0, 512)), chunk(1, 1, COOKIE, &data(0, 512))].concat(),
        [chunk(1, 1, COOKIE, &data(0, 512)), chunk(1, 0, COOKIE, &[])].concat(),
        chunk(1, 2, COOKIE, &[&0_u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat()),
        chunk(1, 5, COOKIE, &data(0, 4)),
        chunk(1, 0x8001, COOKIE, &[0; 6]),
    ];
    for structured in [true, false] {
        for (nth, lie) in lies.iter().enumerate() {
            // Without chunks, an answer whose data is missing is no lie yet.
            if !structured && nth == 2 {
                continue;
            }
            let server = Server::start(Offer { structured, ..honest() });
            let mut disk = disk(&server);
            server.offer().tricks.push_back(Trick::Say(lie.clone()));
            let bytes = disk.read(0, 512);
            // One of them lies only after it has answered.
            let answered = structured && nth == 9;
            assert_eq!(bytes, if answered { vec![9; 512] } else { pattern(0, 512) }, "{lie:?}");
            assert_eq!(disk.read(7, 512), pattern(7 * 512, 512));
            assert_eq!(disk.write(7, &[3; 512]), S_OK);
            assert!(server.offer().connections > 1, "{lie:?}");
        }
    }
}

#[test]
fn read_in_chunks_of_any_order_is_put_together() {
    let server = Server::start(honest());
    let mut disk = disk(&server);
    let data = |offset: u64, byte: u8, len: usize| [&offset.to_be_bytes()[..], &vec![byte; len]].concat();
    let hole = [&1024_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
    let said = [
        chunk(0, 1, COOKIE, &data(1536, 3, 512)),
        chunk(0, 2, COOKIE, &hole),
        chunk(0, 1, COOKIE, &data(512, 1, 512)),
        chunk(1, 0, COOKIE, &[]),
    ];
    server.offer().tricks.push_back(Trick::Say(said.concat()));
    let expected = [[1; 512], [0; 512], [3; 512]].concat();
    assert_eq!(disk.read(1, 1536), expected);
    assert_eq!(server.offer().connections, 1);
}

#[test]
fn server_that_stays_away_fails_requests_after_the_time_allowed() {
    let server = Server::start(honest());
    let mut disk = disk_with(&BlkOptions { nbd_timeout: 1, ..options(&server) }, AGREED);
    server.offer().refusals = usize::MAX;
    server.offer().tricks.push_back(Trick::HangUp);
    let start = Instant::now();
    assert_eq!(disk.request(T_IN, 0, &[], 512).1, S_IOERR);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(disk.request(T_OUT, 0, &[1; 512], 0).1, S_IOERR, "nobody waits any longer");
    server.offer().refusals = 0;
    let back = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        disk.request(T_IN, 0, &[], 512).1 == S_OK
    });
    assert!(back, "it comes back by itself");
}

#[test]
fn server_that_is_silent_fails_requests_after_the_time_allowed() {
    let server = Server::start(honest());
    let mut disk = disk_with(&BlkOptions { nbd_timeout: 1, ..options(&server) }, AGREED);
    server.offer().tricks.push_back(Trick::Silence);
    assert_eq!(disk.request(T_OUT, 0, &[1; 512], 0).1, S_IOERR);
    assert_eq!(disk.read(3, 512), pattern(3 * 512, 512), "on another connection");
    assert_eq!(server.offer().connections, 2);
    server.offer().tricks.push_back(Trick::Silence);
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_IOERR);
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK, "nobody said that data is lost");
}

#[test]
fn server_that_stalls_inside_the_data_of_a_read_fails_it_after_the_time_allowed() {
    // Through the buffer, and straight to the guest.
    for (structured, bytes) in [(false, 512), (true, SIZE)] {
        let server = Server::start(Offer { structured, ..honest() });
        let mut disk = disk_with(&BlkOptions { nbd_timeout: 1, ..options(&server) }, AGREED);
        server.offer().tricks.push_back(Trick::Stall);
        assert_eq!(disk.request(T_IN, 0, &[], bytes).1, S_IOERR);
        assert_eq!(disk.read(0, bytes), pattern(0, bytes), "on another connection");
        assert_eq!(server.offer().connections, 2);
    }
}

#[test]
fn cache_switched_off_while_the_server_is_silent_loses_nothing() {
    let server = Server::start(honest());
    let mut disk = disk_with(&BlkOptions { nbd_timeout: 1, ..options(&server) }, AGREED);
    let writes = |disk: &mut Disk| {
        server.offer().log.clear();
        assert_eq!(disk.write(0, &[1; 512]), S_OK);
        server.offer().log.iter().map(|&(command, flags, ..)| (command, flags)).collect::<Vec<_>>()
    };
    assert_eq!(writes(&mut disk), [(WRITE, 0)]);
    server.offer().tricks.push_back(Trick::Silence);
    disk.switch_cache(0).unwrap_err();
    assert_eq!(disk.device.status()["lost"], false);
    assert_eq!(disk.device.config()[32], 1, "the driver that looks goes on flushing");
    assert_eq!(
        writes(&mut disk),
        [(WRITE, 0), (FLUSH, 0)],
        "and one that does not need not: the old is stable"
    );
    disk.switch_cache(0).unwrap();
    assert_eq!(disk.device.config()[32], 0);
    assert_eq!(writes(&mut disk), [(WRITE, 1)]);
}

#[test]
fn cache_switched_off_while_the_server_is_silent_does_not_hold_up_the_end() {
    let server = Server::start(honest());
    let mut disk = disk_with(&BlkOptions { nbd_timeout: 3600, ..options(&server) }, AGREED);
    server.offer().tricks.push_back(Trick::Silence);
    let result = disk.device.write_config(32, &[0], &Patience::until(&|| true));
    assert!(result.unwrap_err().to_string().contains("interrupted"));
    assert_eq!(disk.device.status()["lost"], false);
}

#[test]
fn cache_whose_data_the_server_could_not_make_stable_is_lost() {
    let server = Server::start(honest());
    let mut disk = disk(&server);
    server.offer().tricks.push_back(Trick::Errno(5));
    disk.switch_cache(0).unwrap_err();
    assert_eq!(disk.device.status()["lost"], true);
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_IOERR);
}

#[test]
fn export_that_can_do_less_than_before_is_not_taken() {
    // Everything, and CAN_MULTI_CONN.
    let all = 1 | 4 | 8 | 32 | 64 | 256;
    let (flush, fua) = (4, 8);
    for (before, after, writes, taken) in [
        (all, all & !flush, true, false),
        (all, all & !256, true, false),
        (all & !flush, all & !flush & !fua, true, false),
        (all, all & !fua & !32 & !64, true, true),
        (all, all & !flush & !256, false, true),
    ] {
        let server = Server::start(Offer { flags: before, ..honest() });
        let options = BlkOptions { nbd_timeout: 1, read_only: !writes, ..options(&server) };
        let mut disk = disk_with(&options, AGREED);
        server.offer().flags = after;
        server.offer().tricks.push_back(Trick::HangUp);
        let expected = if taken { S_OK } else { S_IOERR };
        assert_eq!(disk.request(T_IN, 0, &[], 512).1, expected, "{before} {after}");
    }
    // There is but one connection.
    let server = Server::start(Offer { flags: all, ..honest() });
    let mut disk = disk_with(&BlkOptions { num_queues: 1, ..options(&server) }, AGREED);
    server.offer().flags = all & !256;
    server.offer().tricks.push_back(Trick::HangUp);
    assert_eq!(disk.read(0, 512), pattern(0, 512));
}

#[test]
fn export_that_grew_meanwhile_is_seen_and_one_that_shrank_is_not_taken() {
    let server = Server::start(honest());
    let mut disk = disk_with(&BlkOptions { nbd_timeout: 1, ..options(&server) }, AGREED);
    server.offer().bytes.resize(SIZE * 2, 7);
    server.offer().tricks.push_back(Trick::HangUp);
    assert_eq!(disk.read(0, 512), pattern(0, 512));
    assert!(disk.device.refresh().unwrap());
    assert_eq!(disk.read(SIZE as u64 / 512, 512), [7; 512]);
    server.offer().size = Some(SIZE as u64);
    server.offer().tricks.push_back(Trick::HangUp);
    assert_eq!(disk.request(T_IN, 0, &[], 512).1, S_IOERR);
}

#[test]
fn export_that_does_not_fit_is_refused_at_the_start() {
    let server = Server::start(Offer { blocks: Some([8192, 8192, 8192]), ..honest() });
    assert!(refusal(&server, &options(&server)).contains("8192"));
    let server = Server::start(Offer { blocks: Some([4096, 4096, 4096]), ..honest() });
    assert!(
        refusal(&server, &BlkOptions { block_size: Some(512), ..options(&server) }).contains("--block-size")
    );
    assert!(Blk::open(&options(&server)).is_ok());
    let server = Server::start(Offer { flags: 3, ..honest() });
    assert!(refusal(&server, &options(&server)).contains("--read-only"));
    assert!(Blk::open(&BlkOptions { read_only: true, ..options(&server) }).is_ok());
    let server = Server::start(Offer::of(Vec::new()));
    assert!(refusal(&server, &options(&server)).contains("0 bytes"));
    let server = Server::start(Offer { refusals: usize::MAX, ..honest() });
    assert!(refusal(&server, &options(&server)).contains("hangs up"));
}

#[test]
fn requests_of_parts_of_blocks_fail() {
    let server = Server::start(Offer { blocks: Some([4096, 4096, 1 << 20]), ..honest() });
    let mut disk = disk(&server);
    assert_eq!(disk.device.config()[20..24], 4096_u32.to_le_bytes());
    assert_eq!(disk.request(T_IN, 1, &[], 512).1, S_IOERR);
    assert_eq!(disk.request(T_OUT, 0, &[1; 512], 0).1, S_IOERR);
    assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(1, 16, 0)]), 0).1, S_OK);
    assert_eq!(disk.read(8, 4096), pattern(4096, 4096));
    assert_eq!(server.offer().log, [(TRIM, 0, 4096, 4096), (READ, 0, 4096, 4096)], "whole blocks only");
}

#[test]
fn queues_have_connections_of_their_own_where_the_server_lets_them() {
    for (flags, expected) in [(1, 1), (1 | 256, 2)] {
        let server = Server::start(Offer { flags, ..honest() });
        let mut device = Blk::open(&options(&server)).unwrap();
        for group in 0..2 {
            let handler = device.handler(Group(group), AGREED).unwrap();
            let mut bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(Format::Split) });
            bench.send(QueueId(group), &[&header(T_IN, 0)], &[512, 1]);
            bench.run();
            assert_eq!(bench.receive(QueueId(group)).unwrap().outputs[0], pattern(0, 512));
        }
        assert_eq!(server.offer().connections, expected);
    }
}
