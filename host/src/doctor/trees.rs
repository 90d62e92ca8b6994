//! What would hinder the replication of the configured trees.

use super::Findings;
use crate::config::Config;
use staffetta_files::Hindrance;

/// Looks at the root of every tree.
pub(super) fn trees(config: &Config, found: &mut Findings) {
    for tree in &config.trees {
        let hindrances = staffetta_files::examine(&tree.path, tree.source);
        if hindrances.is_empty() {
            found.ok("tree", format!("{} can be replicated", tree.path.display()));
        }
        for hindrance in hindrances {
            say(&tree.path.display().to_string(), &hindrance, found);
        }
    }
}

fn say(root: &str, hindrance: &Hindrance, found: &mut Findings) {
    match hindrance {
        Hindrance::Unusable(why) => found.fail(
            "tree",
            format!("{root}: {why}"),
            "make the folder on both nodes, or mount its disk, before the daemon starts",
        ),
        Hindrance::NetworkFileSystem(name) => found.fail(
            "tree",
            format!("{root} is on {name}: what other machines change there goes unnoticed"),
            "put it on a local disk; the pair makes the second copy",
        ),
        Hindrance::CaseInsensitive => found.warn(
            "tree",
            format!("{root} is on a file system that takes A and a for the same name"),
            "use one that does not: files whose names differ by case only would replace each other",
        ),
        Hindrance::Mount(point) => found.warn(
            "tree",
            format!("{} is another file system inside {root}: it is left out", point.display()),
            "give it a [[tree]] of its own",
        ),
        Hindrance::OtherFileSystem(folder) => found.fail(
            "tree",
            format!("{} is not on the file system of {root}", folder.display()),
            "unmount it: what is set aside is moved there, which needs one file system",
        ),
        Hindrance::NoFanotify(why) => found.warn(
            "tree",
            format!("{root}: {why}: every folder is watched by inotify instead"),
            "run the daemon as root on a local file system, with a kernel of 5.9 or newer",
        ),
        Hindrance::TooFewWatches { folders, limit } => found.fail(
            "tree",
            format!("{root} has {folders} folders, and inotify may watch {limit}"),
            "raise it: sysctl fs.inotify.max_user_watches=1048576, and in /etc/sysctl.d",
        ),
        Hindrance::Database(file) => found.warn(
            "tree",
            format!("{} is the log of a database that is in use", file.display()),
            "replicate it by [[database]], and leave it out of the tree with `ignore`: copied as \
             files while it is written to, a database breaks",
        ),
    }
}
