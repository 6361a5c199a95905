//! The licences of everything that a program is linked from.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use rill_board::Board;
use spdx::{Expression, LicenseId};
use xtask::{needs, workspace};

use crate::program;

/// What is linked in that cargo does not know: what, its licence, its source.
type Beside = (&'static str, &'static str, &'static str);
const STANDARD: Beside =
    ("Rust's standard library", "MIT OR Apache-2.0", "https://github.com/rust-lang/rust");
const GLIBC: Beside = (
    "The GNU C library (linked statically; its source and this program's, both public, \
     let anyone link this program with another version)",
    "LGPL-2.1-or-later",
    "https://sourceware.org/glibc/",
);

/// Something that is linked for a board.
pub struct Linked {
    package: &'static str,
    features: &'static str,
    target: String,
    besides: &'static [Beside],
}

impl Linked {
    /// The program, as `program::build` builds it.
    pub fn program(board: &Board) -> Self {
        Self {
            package: "rill-linux",
            features: program::FEATURES,
            target: needs::linux_target(board),
            besides: &[STANDARD, GLIBC],
        }
    }

    /// The library for C, as `program::library` builds it.
    pub fn library(board: &Board) -> Self {
        Self {
            package: "rill-ffi",
            features: program::LIBRARY_FEATURES,
            target: needs::linux_target(board),
            besides: &[STANDARD],
        }
    }
}

/// The text of a file that names every crate linked into something, and holds their licences and notices.
pub fn collect(what: &Linked) -> Result<String> {
    let Linked { package: name, features, target, besides } = what;
    let metadata = MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .features(CargoOpt::NoDefaultFeatures)
        .features(CargoOpt::SomeFeatures(vec![format!("{name}/{features}")]))
        .other_options(["--locked", "--filter-platform", target].map(String::from))
        .exec()?;
    let mut text = String::from("This is linked from the following.\n\n");
    // Each text once, with those it belongs to.
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for &(what, licence, source) in *besides {
        writeln!(text, "{what}: {licence} <{source}>")?;
        for id in ids(licence) {
            texts.entry(id.text().to_owned()).or_default().insert(what.to_owned());
        }
    }
    for package in linked(&metadata, name)? {
        let what = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("see its licence below");
        let source = package.repository.as_deref().unwrap_or("https://crates.io");
        writeln!(text, "{what}: {licence} <{source}>")?;
        let folder = package.manifest_path.parent().context("a package has a folder")?;
        let mut files = files(folder.as_std_path())?;
        if files.is_empty() {
            files.extend(ids(licence).map(|id| id.text().to_owned()));
        }
        for file in files {
            texts.entry(file).or_default().insert(what.clone());
        }
    }
    for (licence, owners) in texts {
        let owners: Vec<_> = owners.into_iter().collect();
        write!(text, "\n{}\n{}:\n\n{}\n", "-".repeat(80), owners.join(", "), licence.trim_end())?;
    }
    Ok(text)
}

/// Crates from elsewhere that a package is linked from, by name.
fn linked<'m>(metadata: &'m Metadata, name: &str) -> Result<Vec<&'m Package>> {
    let packages: HashMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let resolve = metadata.resolve.as_ref().context("cargo resolves dependencies")?;
    let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let start = metadata.packages.iter().find(|package| package.name == name);
    let start = start.with_context(|| format!("no package {name}"))?;
    let mut seen = BTreeSet::from([&start.id]);
    let mut queue = VecDeque::from([&start.id]);
    while let Some(node) = queue.pop_front().and_then(|id| nodes.get(id)) {
        for dependency in &node.deps {
            let normal = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
            let package = packages[&dependency.pkg];
            // Macros run while building; their output is not theirs.
            let is_macro = package.targets.iter().any(|target| target.is_proc_macro());
            if dependency.dep_kinds.iter().any(normal) && !is_macro && seen.insert(&dependency.pkg)
            {
                queue.push_back(&dependency.pkg);
            }
        }
    }
    let mut linked: Vec<_> = seen
        .into_iter()
        .map(|id| packages[id])
        .filter(|package| !metadata.workspace_members.contains(&package.id))
        .collect();
    linked.sort_by_key(|package| (package.name.clone(), package.version.clone()));
    Ok(linked)
}

/// The licence and notice files of a package, in the order of their names.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let wanted = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        if path.is_file() && wanted.iter().any(|start| name.starts_with(start)) {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    };
    paths.iter().map(read).collect()
}

/// The licences that an expression names.
fn ids(expression: &str) -> impl Iterator<Item = LicenseId> {
    // Old packages separate alternatives with a slash.
    let expression = Expression::parse(&expression.replace('/', " OR ")).ok();
    let ids: Vec<_> = expression
        .iter()
        .flat_map(Expression::requirements)
        .filter_map(|requirement| requirement.req.license.id())
        .collect();
    ids.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_named_with_its_licence() {
        let text = collect(&Linked::program(&workspace::board("pi4").unwrap())).unwrap();
        for part in
            ["\nclap ", "\nrustix ", "LGPL-2.1", "GNU LESSER GENERAL PUBLIC LICENSE", "Permission"]
        {
            assert!(text.contains(part), "no {part:?}");
        }
        // A macro, a dependency of tests, of another system, and of this repository.
        for part in ["\nclap_derive ", "\nproptest ", "\nwindows-sys ", "\nrill "] {
            assert!(!text.contains(part), "{part:?}");
        }
    }

    #[test]
    fn every_way_to_write_a_licence_is_read() {
        let names = |text| ids(text).map(|id| id.name).collect::<Vec<_>>();
        assert_eq!(names("MIT/Apache-2.0"), ["MIT", "Apache-2.0"]);
        assert_eq!(names("(MIT OR Apache-2.0) AND BSD-3-Clause").len(), 3);
        assert!(names("see its licence below").is_empty());
    }
}
