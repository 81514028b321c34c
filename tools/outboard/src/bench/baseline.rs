//! `outboard bench baseline`: what the front end adds, against a back end that does nothing, beside what the machine
//! can do at all. Everything in one run, in turn, so that ratios mean something on a machine that does other things.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use outboard_frontend::{Error, Format, Options, Queue, Waiting, Wishes};
use outboard_guest_memory::Piece;
use serde::Serialize;

use super::bare;
use super::figures::{Figures, Way};
use super::lane::{Lane, Outcome, Pace, Returned, over_one_queue};
use super::load::{Load, run as load};
use super::ping::Ponger;
use super::process::{cpus, pin_this_thread};
use super::progress::Progress;
use super::versus::{Ratio, Session, median};
use crate::seconds::seconds;
use crate::target::Target;

/// The round trip by interrupt, against the bare one: at most so many times as long.
const ROUND_TRIP: f64 = 1.3;
/// Requests a second with both sides polling: at least so many.
const POLLED: f64 = 3e6;
/// A bare ring reaches more, also between CPUs that are far from each other.
const BUSY: f64 = 10e6;
/// Requests out at once, with both sides polling.
const DEPTH: u16 = 32;
/// Entries of the rings.
const SIZE: u16 = 256;
/// Bytes of a request.
const LEN: usize = 64;

/// Measure this front end itself against a back end that does nothing, and the machine beside it
///
/// The status is 1 if a bar is missed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How often to measure everything
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// How long each measurement takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    time: Duration,

    /// Where the front end runs [default: the first CPU, if there are two]
    #[arg(long, value_name = "CPU")]
    cpu_front: Option<usize>,

    /// Where the back end runs [default: the second CPU]
    #[arg(long, value_name = "CPU")]
    cpu_back: Option<usize>,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was measured in each round.
#[derive(Debug, Default, Serialize)]
struct Rounds {
    /// Round trips, in microseconds: the middle one of each round.
    eventfd_us: Vec<f64>,
    sleeping_us: Vec<f64>,
    adaptive_us: Vec<f64>,
    /// Requests per second.
    bare_ring: Vec<f64>,
    split: Vec<f64>,
    packed: Vec<f64>,
}

/// A figure that must reach something.
#[derive(Debug, Serialize)]
struct Bar {
    what: &'static str,
    value: f64,
    bar: f64,
    holds: bool,
}

/// Where the two sides run.
#[derive(Clone, Copy)]
struct Places {
    front: Option<usize>,
    back: Option<usize>,
}

/// Measures, prints, and says by its status whether the bars hold.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let rounds = measure(args)?;
    let bars = rounds.bars();
    if args.json {
        print_json(&rounds, &bars);
    } else {
        print(&rounds, &bars);
    }
    Ok(if bars.iter().all(|bar| bar.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(args: &Args) -> Result<Rounds> {
    let usable = cpus();
    let second = usable.get(1).copied();
    let places = Places {
        front: args.cpu_front.or(second.and(usable.first().copied())),
        back: args.cpu_back.or(second),
    };
    let mut sleeping = null(&["--poll=off"])?;
    let mut adaptive = null(&[])?;
    let mut spinning = null(&["--poll=always"])?;
    let progress = Progress::new();
    let ponger = Ponger::start(places.back.as_slice())?;
    let mut all = Rounds::default();
    for _ in 0..args.rounds {
        progress.begin("eventfd ping-pong");
        let trips = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                places.front.map_or(Ok(()), |cpu| pin_this_thread(&[cpu]))?;
                ponger.measure(args.time)
            });
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        })?;
        all.eventfd_us.push(trips.value_at_quantile(0.5) as f64 / 1e3);
        let one = |target: &mut Target, format, waiting, depth| -> Result<Figures> {
            progress.begin("no-op back end");
            requests(target, format, waiting, depth, args.time, places, &progress)
        };
        let trip = |figures: &Figures| figures.latency().value_at_quantile(0.5) as f64 / 1e3;
        let rate = |figures: &Figures| figures.per_second(figures.requests());
        let by_interrupt = Waiting::Interrupt;
        all.sleeping_us.push(trip(&one(&mut sleeping, Format::Split, by_interrupt, 1)?));
        all.adaptive_us.push(trip(&one(&mut adaptive, Format::Split, by_interrupt, 1)?));
        all.split.push(rate(&one(&mut spinning, Format::Split, Waiting::Polling, DEPTH)?));
        all.packed.push(rate(&one(&mut spinning, Format::Packed, Waiting::Polling, DEPTH)?));
        progress.begin("bare ring");
        all.bare_ring.push(bare::measure(DEPTH.into(), args.time, [places.front, places.back])?);
    }
    Ok(all)
}

/// Starts the no-op back end.
fn null(options: &[&str]) -> Result<Target> {
    let words = ["/proc/self/exe", "bench", "null", "--log-level=warn"];
    let words: Vec<_> = words.iter().chain(options).map(Into::into).collect();
    Target::of_command(&words, true)
}

/// Loads the no-op back end.
fn requests(
    target: &mut Target,
    format: Format,
    waiting: Waiting,
    depth: u16,
    time: Duration,
    places: Places,
    progress: &Progress,
) -> Result<Figures> {
    let Session { mut frontend, back } = Session::open(target, Options::default(), places.back.as_slice())?;
    frontend.agree(&Wishes { format, ..Wishes::default() })?;
    let mut queue = frontend.start(0, SIZE)?;
    frontend.driver_ok()?;
    let buffers = (0..depth).map(|_| Ok(frontend.allocate(LEN)?.piece())).collect::<Result<_, Error>>()?;
    let pace =
        Pace { depth, batch: 1, waiting, timeout: Duration::from_secs(10), limit: None, timed_every: 0 };
    let cpus = places.front.into_iter().collect();
    let plan = Load { pace, warm_up: time / 5, time, requests: None, cpus };
    let figures = load(&mut [NullLane { queue: &mut queue, buffers }], &plan, back, progress)?;
    frontend.reset([queue])?;
    Ok(figures)
}

/// A queue of the no-op back end.
struct NullLane<'a> {
    queue: &'a mut Queue,
    buffers: Vec<Piece>,
}

impl Lane for NullLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        Ok(self.queue.add::<_, Piece>(std::slice::from_ref(buffer), &[], slot.into())?)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, _)) = self.queue.poll()? else { return Ok(None) };
        Ok(Some(Returned { slot: token as u16, what: Outcome::Moved(Way::Out, LEN as u32) }))
    }

    over_one_queue!();
}

impl Rounds {
    /// How much longer than the bare round trip, round by round.
    fn times_eventfd(&self, trips: &[f64]) -> Ratio {
        let bare = self.eventfd_us.iter().map(|&bare| bare.max(1e-3));
        Ratio::of(trips.iter().zip(bare).map(|(trip, bare)| trip / bare).collect())
    }

    fn bars(&self) -> Vec<Bar> {
        let at_most = |what, value, bar| Bar { what, value, bar, holds: value <= bar };
        let at_least = |what, value, bar| Bar { what, value, bar, holds: value >= bar };
        vec![
            at_most(
                "round trip, back end that sleeps at once, times the eventfd ping-pong",
                self.times_eventfd(&self.sleeping_us).median,
                ROUND_TRIP,
            ),
            at_most(
                "round trip, back end as it is by default, times the eventfd ping-pong",
                self.times_eventfd(&self.adaptive_us).median,
                ROUND_TRIP,
            ),
            at_least("requests per second, split ring, both polling", median(self.split.clone()), POLLED),
            at_least("requests per second, packed ring, both polling", median(self.packed.clone()), POLLED),
        ]
    }
}

fn print(rounds: &Rounds, bars: &[Bar]) {
    use super::report::line;
    let spread = |values: &[f64], scale: f64| {
        let Ratio { median, min, max } = Ratio::of(values.iter().map(|value| value / scale).collect());
        format!("{median:>8.2} ({min:.2} .. {max:.2})")
    };
    line(&format!(
        "round trips in us, depth 1, the middle one; the median of {} rounds (and their range)",
        rounds.split.len()
    ));
    line(&format!("  eventfd ping-pong of two processes        {}", spread(&rounds.eventfd_us, 1.0)));
    line(&format!("  front end, back end that sleeps at once   {}", spread(&rounds.sleeping_us, 1.0)));
    line(&format!("  front end, back end as it is by default   {}", spread(&rounds.adaptive_us, 1.0)));
    line(&format!("million requests a second, depth {DEPTH}, both sides polling"));
    line(&format!("  bare ring in memory, two threads          {}", spread(&rounds.bare_ring, 1e6)));
    line(&format!("  front end and back end, split ring        {}", spread(&rounds.split, 1e6)));
    line(&format!("  front end and back end, packed ring       {}", spread(&rounds.packed, 1e6)));
    if median(rounds.bare_ring.clone()) < BUSY {
        line(
            "  (the bare ring is slow: others use these CPUs; `chrt -r 10 outboard bench baseline` has them to itself)",
        );
    }
    for Bar { what, value, bar, holds } in bars {
        let (verdict, relation) =
            (if *holds { "PASS" } else { "FAIL" }, if *bar < 100.0 { "<=" } else { ">=" });
        let (value, bar, unit) =
            if *bar < 100.0 { (*value, *bar, "") } else { (value / 1e6, bar / 1e6, " M") };
        line(&format!("{verdict} {what}: {value:.2}{unit} {relation} {bar}{unit}"));
    }
}

fn print_json(rounds: &Rounds, bars: &[Bar]) {
    super::report::line(&serde_json::json!({ "rounds": rounds, "bars": bars }).to_string());
}
