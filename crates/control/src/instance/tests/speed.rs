//! How soon a request is at its node.

use super::*;
use std::time::Instant;

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

/// The bound is far above what is promised (3 ms), because tests share the machine; the numbers are printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_at_the_node_soon_after_the_request() {
    let (cloud, _) = Cloud::usual().await;
    let node = cloud.node("big", "cpu:400,memory:400Gi,disk:400Gi").await;
    node.disobey();
    let mut orders = yun_api::node::ControlLink::orders(&node.link, node.id).await.unwrap();
    let (mut to_order, mut to_answer) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let wanted = format!("i{n}");
        let begun = Instant::now();
        let arrives = async {
            while let Some(order) = futures::StreamExt::next(&mut orders).await {
                if matches!(&order, NodeOrder::Instance(instance) if instance.name.as_str() == wanted) {
                    return begun.elapsed();
                }
            }
            panic!("the orders ended")
        };
        let answered = async {
            cloud.create(&wanted, |s| s.node = Some(name("big"))).await.unwrap();
            begun.elapsed()
        };
        let (order, answer) = tokio::join!(arrives, answered);
        to_order.push(order);
        to_answer.push(answer);
    }
    let (order, answer) = (median(to_order), median(to_answer));
    println!("create → order at the node: median {order:?}; create → answer: median {answer:?}");
    assert!(order < Duration::from_millis(300), "{order:?}");

    let begun = Instant::now();
    let names: Vec<String> = (0..100).map(|n| format!("many{n}")).collect();
    let all = join_all(names.iter().map(|n| cloud.create(n, |s| s.node = Some(name("big"))))).await;
    assert!(all.iter().all(Result::is_ok));
    println!("100 creates at once: {:?}", begun.elapsed());
}
