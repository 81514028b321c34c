//! The program `vhost-user-i2c`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_i2c::VhostUserI2c>()
}
