//! The program `vhost-user-blk`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_blk::VhostUserBlk>()
}
