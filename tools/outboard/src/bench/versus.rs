//! One back end measured, or several in turn: A B B A A B ..., so that what the machine does meanwhile meets all of
//! them alike.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use outboard_frontend::{Frontend, Options};

use super::figures::Figures;
use super::load::Load;
use super::options::Shared;
use super::process::Process;
use super::progress::Progress;
use super::words::words;
use crate::peer;
use crate::size::Size;
use crate::target::Target;

/// The most bytes that requests may have in flight: all of it is written to.
const MOST_DATA: u64 = 16 << 30;

/// What is done to a back end, once in each round.
pub(super) trait Job {
    /// The options that every measurement has.
    fn shared(&self) -> &Shared;
    /// Whether it may be done to this back end.
    ///
    /// # Errors
    /// Why not, and what would permit it.
    fn permit(&self, target: &Target) -> Result<()>;
    /// Bytes of guest memory for data.
    fn data(&self) -> u64;
    /// Does it.
    ///
    /// # Errors
    /// The back end does something wrong, or not what is wanted.
    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures>;
}

/// A connection of its own for each measurement.
pub(super) struct Session {
    pub(super) frontend: Frontend,
    pub(super) back: Option<Process>,
}

/// The figures of one back end.
pub(super) struct Measured {
    pub(super) name: String,
    /// One per round.
    pub(super) rounds: Vec<Figures>,
}

/// A ratio of figures over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Session {
    /// Connects to a back end, which is started first if it is ours and has ended.
    ///
    /// # Errors
    /// It cannot be started, does not listen, or refuses to negotiate.
    pub(super) fn open(target: &mut Target, options: Options, cpus: &[usize]) -> Result<Self> {
        let stream = connect(target, options.timeout)?;
        let back = Process::behind(&stream);
        if !cpus.is_empty() {
            // Before it starts threads for the rings: those inherit it.
            back.context("it is not known which process the back end is: --cpu-back cannot be done")?
                .pin(cpus)?;
        }
        Ok(Self { frontend: Frontend::from_stream(stream, options)?, back })
    }
}

/// A new connection. Between two front ends some back ends do not listen for a moment, or end.
fn connect(target: &mut Target, timeout: Duration) -> Result<UnixStream> {
    const LOOK: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + timeout;
    loop {
        target.start()?;
        match peer::connect(target.socket(), timeout) {
            Ok(stream) => return Ok(stream),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
                    && target.is_ours()
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot connect to {}", target.socket().display()));
            }
        }
    }
}

/// Measures all the back ends of a job.
///
/// # Errors
/// What a back end does wrong, with its name.
pub(super) fn measure(job: &dyn Job) -> Result<Vec<Measured>> {
    let shared = job.shared();
    let mut targets = vec![Target::open(&shared.target, shared.verbose)?];
    for text in &shared.vs {
        targets.push(other(text, shared.verbose)?);
    }
    for target in &targets {
        job.permit(target)?;
    }
    ensure!(job.data() <= MOST_DATA, "{} of data in flight are too much", Size(job.data()));
    let progress = Progress::new();
    let rounds = if targets.len() > 1 { shared.rounds } else { 1 };
    let mut all: Vec<Measured> =
        targets.iter().map(|target| Measured { name: target.name(), rounds: Vec::new() }).collect();
    for round in 0..rounds {
        let mut order: Vec<(&mut Target, &mut Measured)> = targets.iter_mut().zip(&mut all).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (target, measured) in order {
            progress.begin(&measured.name);
            let figures = Session::open(target, shared.connection(job.data()), &shared.cpu_back)
                .and_then(|session| job.measure(session, &shared.load(), &progress))
                .with_context(|| measured.name.clone())?;
            measured.rounds.push(figures);
        }
    }
    Ok(all)
}

/// The back end that an argument of --vs names.
fn other(text: &str, aloud: bool) -> Result<Target> {
    let is_socket = std::fs::metadata(text).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        return Ok(Target::of_socket(text));
    }
    let words: Vec<_> = words(text)?.into_iter().map(Into::into).collect();
    Target::of_command(&words, aloud)
}

impl Measured {
    /// The medians over the rounds of everything that can be compared.
    pub(super) fn medians(&self) -> Vec<(&'static str, f64)> {
        let rounds: Vec<BTreeMap<_, _>> =
            self.rounds.iter().map(|round| round.comparable().into_iter().collect()).collect();
        let names = self.rounds.first().map(Figures::comparable).unwrap_or_default();
        let of = |name| rounds.iter().filter_map(|round| round.get(name).copied()).collect();
        names.into_iter().map(|(name, _)| (name, median(of(name)))).collect()
    }

    /// How the figures relate to those of `other`, round by round. A figure that is 0 there has no ratio.
    pub(super) fn ratios(&self, other: &Self) -> Vec<(&'static str, Ratio)> {
        let mut ratios = BTreeMap::<&'static str, Vec<f64>>::new();
        let mut names = Vec::new();
        for (ours, theirs) in self.rounds.iter().zip(&other.rounds) {
            let theirs: BTreeMap<_, _> = theirs.comparable().into_iter().collect();
            names = ours.comparable();
            for &(name, value) in &names {
                if let Some(&theirs) = theirs.get(name).filter(|&&value| value > 0.0) {
                    ratios.entry(name).or_default().push(value / theirs);
                }
            }
        }
        let ratio = |(name, _)| Some((name, Ratio::of(ratios.remove(name)?)));
        names.into_iter().filter_map(ratio).collect()
    }
}

impl Ratio {
    /// Of the rounds' ratios.
    pub(super) fn of(rounds: Vec<f64>) -> Self {
        let min = rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let max = rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(rounds), min, max }
    }
}

/// The middle one, or between the two in the middle; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(0.0);
    let lower = values.get(middle.wrapping_sub(1)).copied().unwrap_or(upper);
    if values.len().is_multiple_of(2) { f64::midpoint(lower, upper) } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn ratio_has_its_spread() {
        assert_eq!(Ratio::of(vec![2.0, 1.0, 1.5]), Ratio { median: 1.5, min: 1.0, max: 2.0 });
    }

    #[test]
    fn target_of_one_argument_is_a_command_unless_it_is_a_socket() {
        let error = other("/nonexistent/program --option", true).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"), "{error:#}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!other(path.to_str().unwrap(), true).unwrap().is_ours());
    }
}
