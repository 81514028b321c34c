//! The options of `--backend af_xdp`. Trusted: they come from whoever starts the program.

use clap::ValueEnum;

use crate::host::netdevice::parse_name;

/// What `--backend af_xdp` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct XdpOptions {
    /// The interface of the host (--backend af_xdp)
    #[arg(long, value_name = "NAME", value_parser = parse_name, hide = !cfg!(feature = "af-xdp"))]
    pub interface: Option<String>,

    /// The first of its queues to be used, of as many as there are pairs (--backend af_xdp) [default: 0]
    #[arg(long, value_name = "N", hide = !cfg!(feature = "af-xdp"), value_parser = clap::value_parser!(u16))]
    pub queue: Option<u16>,

    /// Where packets are taken (--backend af_xdp) [default: auto]
    #[arg(long, value_enum, value_name = "MODE", hide = !cfg!(feature = "af-xdp"))]
    pub xdp_mode: Option<XdpMode>,

    /// Whether the driver writes to the program's frames itself (--backend af_xdp) [default: auto]
    #[arg(long, value_enum, value_name = "WHETHER", hide = !cfg!(feature = "af-xdp"))]
    pub zero_copy: Option<ZeroCopy>,
}

impl XdpOptions {
    /// One of these options, if any was given.
    pub(in crate::host) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.interface.is_some(), "--interface"),
            (self.queue.is_some(), "--queue"),
            (self.xdp_mode.is_some(), "--xdp-mode"),
            (self.zero_copy.is_some(), "--zero-copy"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}

/// Where packets are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum XdpMode {
    /// In the driver if it can, behind it if not.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// Behind the driver, of any interface.
    #[value(alias = "skb")]
    Generic,
}

/// Who writes to the program's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ZeroCopy {
    /// The driver if it can, the kernel if not.
    #[default]
    Auto,
    /// The driver.
    On,
    /// The kernel.
    Off,
}
