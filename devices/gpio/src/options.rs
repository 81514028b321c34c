//! The program's own options.

use std::str::FromStr;

use outboard_daemon::{DriveArgs, Ranges, Renamed};

/// Most lines of a simulated chip.
const MOST: u16 = 1024;

/// Which lines the guest gets.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GpioOptions {
    /// Give the guest lines of this chip of the host: its path, or its label
    #[arg(long, value_name = "CHIP", conflicts_with = "simulate")]
    pub chip: Option<String>,
    /// Simulate a chip with so many lines [default: 8, without --chip]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST)))]
    pub simulate: Option<u16>,
    /// These lines, in the guest's order, and what it calls them: 3=door,5,7-9 [default: all; of a chip of the host, those
    /// that nobody uses]
    #[arg(long, value_name = "LINES")]
    pub lines: Option<Renamed>,
    /// Refuse to drive these lines, by the chip's numbers
    #[arg(long, value_name = "LINES")]
    pub read_only: Option<Ranges>,
    /// Do not offer interrupts
    #[arg(long)]
    pub no_irq: bool,
    /// Let outputs keep their level when the front end is gone
    #[arg(long)]
    pub hold_outputs: bool,
    /// Ignore changes of inputs that are shorter, in microseconds, where the chip of the host can
    #[arg(long, value_name = "US", requires = "chip")]
    pub debounce_us: Option<u32>,
    /// Connect an output of the simulated chip with an input of it [can be given several times]
    #[arg(long, value_name = "FROM:TO", conflicts_with = "chip")]
    pub wire: Vec<Wire>,
    /// What drives a simulated chip.
    #[command(flatten)]
    pub drive: DriveArgs,
}

/// Two lines of a simulated chip that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The output.
    pub from: u16,
    /// The input.
    pub to: u16,
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.split_once(':').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        let (from, to) = lines.filter(|(from, to)| from != to).ok_or("a wire is between two lines: 0:1")?;
        Ok(Self { from, to })
    }
}
