//! Block devices as targets and sources; loop devices, which need root.

use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
    process::Command,
};

use nix::sys::signal::Signal;

use super::world::{World, is_root, run, skip, until};

/// A loop device over a file of the world. Dropping it frees it.
struct Loop(PathBuf);

impl Loop {
    /// `None`, with the test skipped, where there are none.
    fn attach(world: &World, len: u64) -> Option<Self> {
        if !is_root() {
            skip("root (loop devices)");
            return None;
        }
        world.sparse("device.raw", len, &[]);
        let mut setup = Command::new("losetup");
        setup.args(["-f", "--show"]).arg(world.path("device.raw"));
        let made = setup.output().ok().filter(|made| made.status.success());
        let Some(made) = made else {
            skip("losetup (Debian package mount) and free loop devices");
            return None;
        };
        let path = String::from_utf8(made.stdout).unwrap();
        Some(Self(PathBuf::from(path.trim())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn start_bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open(&self.0).unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The protection of a device outlives what is behind it.
        let _ = Command::new("blockdev")
            .arg("--setrw")
            .arg(&self.0)
            .output();
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

fn is_incomplete(world: &World, device: &Loop) -> bool {
    let info = world.run_ok(&["info", "--json", device.path()]).result();
    info["incomplete"] == true
}

#[test]
fn a_device_gets_the_copy_and_keeps_what_is_behind_it() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 8 << 20) else {
        return;
    };
    for len in [1, 511, 4095, 4096, 4097, 3_000_001, 8 << 20] {
        let behind = vec![0xee; 8 << 20];
        fs::write(device.path(), &behind).unwrap();
        let bytes = world.random("a.img", len);
        world.run_ok(&["backup", "--verify", "read", "a.img", device.path()]);
        let has = device.start_bytes(8 << 20);
        assert!(has[..len] == bytes, "{len}");
        assert!(has[len..] == behind[len..], "{len}");
        assert!(!is_incomplete(&world, &device));
        world.run_ok(&["verify", device.path(), "--against", "a.img"]);
    }
}

#[test]
fn a_device_whose_backup_was_cut_short_is_marked() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 16 << 20) else {
        return;
    };
    world.random("a.img", 16 << 20);
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let args = ["backup", "--json", "--limit", "2M", "a.img", device.path()];
        let mut running = world.start(&args);
        running.read_until("progress");
        running.signal(signal);
        let (ended, _) = running.wait();
        assert_ne!(ended.code, 0);
        assert!(
            device
                .start_bytes(64)
                .starts_with(b"longshore: incomplete backup")
        );
        assert!(is_incomplete(&world, &device));
        let differs = world.run(&["verify", device.path(), "--against", "a.img"]);
        assert_eq!(differs.code, 5, "{differs:?}");
    }
    world.run_ok(&["backup", "a.img", device.path()]);
    assert!(!is_incomplete(&world, &device));
    assert!(device.start_bytes(16 << 20) == world.read("a.img"));
}

#[test]
fn a_device_that_was_something_else_is_zeroed_where_the_source_has_holes() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 8 << 20) else {
        return;
    };
    fs::write(device.path(), vec![0xee; 8 << 20]).unwrap();
    world.sparse("a.img", 8 << 20, &[3 << 20]);
    world.run_ok(&["backup", "a.img", device.path()]);
    assert!(device.start_bytes(8 << 20) == world.read("a.img"));
}

#[test]
fn a_device_is_a_source_too() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 3 << 20) else {
        return;
    };
    let bytes = super::world::noise(3 << 20);
    fs::write(device.path(), &bytes).unwrap();
    world.run_ok(&["backup", device.path(), "b.img"]);
    assert!(world.read("b.img") == bytes);
    let same = world.run(&["backup", device.path(), device.path()]);
    assert_eq!(same.code, 2, "{same:?}");
}

#[test]
fn a_smaller_or_read_only_device_is_refused_and_left_alone() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 1 << 20) else {
        return;
    };
    world.random("a.img", (1 << 20) + 1);
    let small = world.run(&["backup", "a.img", device.path()]);
    assert_eq!(small.code, 2, "{small:?}");
    assert!(
        small.stderr.contains("smaller than the source"),
        "{small:?}"
    );
    world.random("a.img", 1 << 20);
    let mut protect = Command::new("blockdev");
    if !run(protect.args(["--setro", device.path()]))
        .stderr
        .is_empty()
    {
        return;
    }
    let protected = world.run(&["backup", "a.img", device.path()]);
    assert_eq!(protected.code, 9, "{protected:?}");
    assert!(device.start_bytes(1 << 20).iter().all(|byte| *byte == 0));
}

#[test]
fn a_mounted_device_is_neither_source_nor_target() {
    let world = World::new();
    let Some(device) = Loop::attach(&world, 16 << 20) else {
        return;
    };
    if !super::world::is_installed("mkfs.ext4") {
        return skip("mkfs.ext4 (Debian package e2fsprogs)");
    }
    assert_eq!(
        run(Command::new("mkfs.ext4").args(["-q", device.path()])).code,
        0
    );
    fs::create_dir(world.path("mounted")).unwrap();
    let mounted = run(Command::new("mount")
        .arg(device.path())
        .arg(world.path("mounted")));
    assert_eq!(mounted.code, 0, "{mounted:?}");
    world.random("a.img", 1 << 20);
    let target = world.run(&["backup", "a.img", device.path()]);
    let source = world.run(&["backup", device.path(), "b.img"]);
    until(|| run(Command::new("umount").arg(world.path("mounted"))).code == 0);
    assert_eq!(
        (target.code, source.code),
        (11, 11),
        "{target:?} {source:?}"
    );
    assert!(!world.exists("b.img"));
}
