//! `yun image prune`: removes the images that no instance was made from. The server has the last word: it refuses what is used meanwhile.

use anyhow::{Result, bail};
use std::collections::BTreeSet;
use yun_types::{Bytes, Digest, Image, Name};

use crate::cli::{
    connect::{Cloud, Explained},
    output,
};

/// Removes them, or says which it would.
pub(super) async fn run(cloud: &Cloud, dry_run: bool, keep: &[String]) -> Result<()> {
    let images = cloud.client.image_list().project(cloud.project.clone()).limit(1000).send().await.explained()?.items;
    if let Some(unknown) = keep.iter().find(|name| !images.iter().any(|i| i.metadata.name.as_str() == **name)) {
        bail!("image {unknown} does not exist, so it cannot be kept: yun image ls shows what there is");
    }
    let used = used(cloud).await?;
    let (mut room, mut refused) = (0, Vec::new());
    for image in images.iter().filter(|i| goes(i, &used, keep)) {
        let (name, size) = (&image.metadata.name, image.status.facts.size);
        if !dry_run {
            let request = cloud.client.image_delete().project(cloud.project.clone()).image(name.as_str());
            if let Err(e) = request.send().await.explained() {
                refused.push(e.to_string());
                continue;
            }
        }
        room += size.0;
        output::print_line(&format!("{} {name} ({})", if dry_run { "would remove" } else { "removed" }, size.human()))?;
    }
    let how = if dry_run { "would be freed" } else { "freed" };
    output::print_line(&format!("{} at most {how}: layers that other images share stay", Bytes(room).human()))?;
    if refused.is_empty() { Ok(()) } else { bail!(refused.join("\n")) }
}

/// The contents that instances were made from, in all projects that the caller sees.
async fn used(cloud: &Cloud) -> Result<BTreeSet<Digest>> {
    let (mut used, mut page) = (BTreeSet::new(), None::<String>);
    loop {
        let mut request = cloud.client.instance_list().all_projects(true).limit(500);
        if let Some(token) = page {
            request = request.page_token(token);
        }
        let answer = request.send().await.explained()?;
        used.extend(answer.items.into_iter().filter_map(|i| Some(i.status.image?.digest)));
        page = answer.next_page;
        if page.is_none() {
            return Ok(used);
        }
    }
}

fn goes(image: &Image, used: &BTreeSet<Digest>, keep: &[String]) -> bool {
    let name: &Name = &image.metadata.name;
    !used.contains(&image.status.facts.digest) && !keep.iter().any(|kept| kept == name.as_str())
}
