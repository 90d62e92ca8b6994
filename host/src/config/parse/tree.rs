//! `[[tree]]`: folders whose files the standby has too.

use super::super::raw::RawTree;
use super::super::{TreeConfig, defaults};
use super::conflict::first_twice;
use super::{Reader, Result};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

const DAY_S: u64 = 24 * 3_600;

impl Reader<'_> {
    pub(super) fn trees(&self, raw: &[Spanned<RawTree>]) -> Result<Vec<TreeConfig>> {
        let mut all: Vec<TreeConfig> = Vec::with_capacity(raw.len());
        for one in raw {
            let tree = self.tree(one)?;
            let nested = |other: &&TreeConfig| {
                tree.path.starts_with(&other.path) || other.path.starts_with(&tree.path)
            };
            if let Some(other) = all.iter().find(nested) {
                let say = format!(
                    "tree.path: {} and {} are one tree, or one holds the other: name the outer \
                     one only (`ignore` leaves parts of it out)",
                    other.path.display(),
                    tree.path.display()
                );
                return Err(self.source.error(one.span(), say));
            }
            all.push(tree);
        }
        let names = all.iter().zip(raw).map(|(tree, raw)| (tree.name.as_str(), raw.span()));
        first_twice(self.source, names, |name, line| {
            format!("a [[tree]] named {name:?} is there already on line {line}: write another name")
        })?;
        Ok(all)
    }

    fn tree(&self, raw: &Spanned<RawTree>) -> Result<TreeConfig> {
        let (span, table) = (raw.span(), raw.get_ref());
        let name = self.need(&table.name, &span, "name", "name = \"recordings\"")?;
        let path = self.need(&table.path, &span, "path", "path = \"/var/spool/recordings\"")?;
        let root = check_root(path.get_ref()).map_err(|what| {
            self.source.error(path.span(), format!("tree.path = {:?}: {what}", path.get_ref()))
        })?;
        let share = self.number(
            &table.delete_share_max,
            "tree.delete_share_max",
            defaults::DELETE_SHARE_MAX,
            1..=100,
        )?;
        let days = 1..=defaults::TRASH_DAYS_MAX;
        let trash =
            self.number(&table.trash_days, "tree.trash_days", defaults::TRASH_DAYS, days)?;
        let hours = 0..=defaults::SCAN_HOURS_MAX;
        let scan =
            self.number(&table.scan_hours, "tree.scan_hours", defaults::SCAN_HOURS, hours)?;
        Ok(TreeConfig {
            name: self.name(name, "tree.name")?,
            path: root,
            ignore: self.ignore(&table.ignore)?,
            source: table.source.as_ref().map_or(defaults::TREE_SOURCE, |s| *s.get_ref()),
            delete_share_max: u8::try_from(share).expect("the range above"),
            grow: table.grow.unwrap_or(defaults::TREE_GROW),
            compress: table.compress.unwrap_or(defaults::TREE_COMPRESS),
            trash: Duration::from_secs(trash * DAY_S),
            scan: (scan > 0).then(|| Duration::from_secs(scan * 3_600)),
        })
    }

    fn ignore(&self, patterns: &[Spanned<String>]) -> Result<Vec<String>> {
        if let Some(first_too_many) = patterns.get(defaults::IGNORES_MAX) {
            let text = format!("tree.ignore: at most {} patterns", defaults::IGNORES_MAX);
            return Err(self.source.error(first_too_many.span(), text));
        }
        for pattern in patterns {
            let given = [pattern.get_ref().clone()];
            if let Err(why) = staffetta_files::check_ignores(&given) {
                let text = format!("tree.ignore: {why}: write a pattern as in gitignore(5)");
                return Err(self.source.error(pattern.span(), text));
            }
        }
        Ok(patterns.iter().map(|pattern| pattern.get_ref().clone()).collect())
    }
}

/// A folder that may be a tree's root.
fn check_root(text: &str) -> std::result::Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains(['\0', '\n']) {
        return Err("write an absolute path".into());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("write the path without ..".into());
    }
    // Without a slash at the end, and without dots.
    let path: PathBuf = path.components().collect();
    let refused = ["/", "/dev", "/proc", "/run", "/sys", "/etc/staffetta", "/var/lib/staffetta"];
    match refused.iter().find(|refused| path == Path::new(refused)) {
        Some(_) => Err("this folder is the node's own: name the folder of an application".into()),
        None => Ok(path),
    }
}
