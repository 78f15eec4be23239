//! Copies within a file system that can share blocks; mounts, which need root.

use std::{fs, path::PathBuf, process::Command};

use super::world::{World, is_installed, is_root, skip};

/// An XFS in a file of the world, mounted. Dropping it unmounts it.
struct Xfs(PathBuf);

impl Xfs {
    /// `None`, with the test skipped, where there is none.
    fn mount(world: &World) -> Option<Self> {
        if !is_root() {
            skip("root (mounts, loop devices)");
            return None;
        }
        if !is_installed("mkfs.xfs") {
            skip("mkfs.xfs (Debian package xfsprogs)");
            return None;
        }
        world.sparse("xfs.img", 400 << 20, &[]);
        let (image, at) = (world.path("xfs.img"), world.path("xfs"));
        fs::create_dir(&at).unwrap();
        let made = Command::new("mkfs.xfs").arg("-q").arg(&image).output();
        assert!(made.unwrap().status.success());
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", "loop"]).args([&image, &at]).output();
        if !mounted.unwrap().status.success() {
            skip("a kernel with XFS");
            return None;
        }
        Some(Self(at))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_copy_within_a_file_system_shares_its_blocks_unless_that_is_forbidden() {
    let world = World::new();
    let Some(xfs) = Xfs::mount(&world) else {
        return;
    };
    let (image, copy) = (xfs.path("a.img"), xfs.path("b.img"));
    let bytes = world.random("a.img", (64 << 20) + 513);
    fs::write(&image, &bytes).unwrap();

    let free_before = aio::sys::free_bytes(&xfs.0).unwrap();
    let run = world.run_ok(&["backup", "--json", &image, &copy]);
    let result = run.result();
    assert_eq!(result["bytes_offloaded"], 64 << 20, "{result}");
    let free_after = aio::sys::free_bytes(&xfs.0).unwrap();
    assert!(free_before.saturating_sub(free_after) < 16 << 20);
    assert!(fs::read(&copy).unwrap() == bytes);

    let run = world.run_ok(&["backup", "--json", "--offload", "off", &image, &copy]);
    assert_eq!(run.result()["bytes_offloaded"], 0);
    assert!(fs::read(&copy).unwrap() == bytes);
}
