//! The program `vhost-user-gpio`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_gpio::VhostUserGpio>()
}
