//! Examples and invariants of the GPU fleet.

use super::*;
use proptest::prelude::*;

fn node(cpu: u32, gpus: u8, model: u8) -> GpuNode {
    GpuNode { cpu, memory: 1 << 20, gpus, model }
}

fn share(milli: u16) -> GpuShape {
    GpuShape::new(1000, 1, 1, milli, 0).unwrap()
}

fn never() -> u64 {
    0
}

#[test]
fn shares_that_cannot_be_are_refused() {
    assert_eq!(GpuShape::new(1, 1, 1, 1001, 0), Err(BadGpu::Share(1001)));
    assert_eq!(GpuShape::new(1, 1, 1, 0, 0), Err(BadGpu::Share(0)));
    assert_eq!(GpuShape::new(1, 1, 9, 1000, 0), Err(BadGpu::TooMany(9)));
    let fleet = GpuFleet::new(&[node(1, 2, 64)], u64::from, &[], GpuPolicy::Fgd);
    assert_eq!(fleet.unwrap_err(), BadGpu::Model(64));
    assert!(GpuPolicy::NAMES.iter().all(|name| GpuPolicy::named(name).is_some()));
    assert_eq!(
        (GpuPolicy::named("window7"), GpuPolicy::named("window0"), GpuPolicy::named("x")),
        (Some(GpuPolicy::Window(7)), None, None)
    );
}

#[test]
fn halves_share_a_gpu_so_that_wholes_stay_whole() {
    let typical = [(share(500), 1), (share(1000), 1)];
    let mut fleet =
        GpuFleet::new(&[node(64_000, 2, 0), node(64_000, 2, 0)], u64::from, &typical, GpuPolicy::DEFAULT).unwrap();
    let half = fleet.shape(&share(500));
    let places: Vec<(u32, u8)> =
        (0..4).map(|_| fleet.place(half, &mut never).unwrap()).map(|p| (p.node, p.gpus)).collect();
    assert_eq!(places, [(0, 1), (0, 1), (0, 2), (0, 2)]);
    assert_eq!(fleet.left(0).2, [0, 0]);
    assert_eq!(fleet.idle(), 2000);
}

#[test]
fn a_task_for_a_model_goes_to_it() {
    let mut fleet = GpuFleet::new(&[node(8000, 1, 3), node(8000, 1, 5)], u64::from, &[], GpuPolicy::DEFAULT).unwrap();
    let only = fleet.shape(&GpuShape { models: 1 << 5, ..share(1000) });
    assert_eq!(fleet.place(only, &mut never).unwrap().node, 1);
    assert_eq!(fleet.place(only, &mut never), None);
}

fn policy() -> impl Strategy<Value = GpuPolicy> {
    proptest::sample::select(GpuPolicy::NAMES.to_vec()).prop_map(|name| GpuPolicy::named(name).unwrap())
}

proptest! {
    #[test]
    fn no_gpu_is_ever_given_twice(
        policy in policy(),
        tasks in proptest::collection::vec((0u32..9000, 0u8..5, 1u16..=1000, any::<bool>()), 1..80),
    ) {
        let nodes = [node(16_000, 4, 0), node(32_000, 2, 1), node(8_000, 1, 1)];
        let typical: Vec<(GpuShape, u64)> = tasks.iter().map(|(cpu, gpus, milli, _)| {
            (GpuShape::new(*cpu, 1, *gpus, *milli, 0).unwrap(), 1)
        }).collect();
        let mut fleet = GpuFleet::new(&nodes, |n| crate::mix(u64::from(n)), &typical, policy).unwrap();
        let mut seed = 1;
        let mut chance = || { seed = crate::mix(seed); seed };
        let (mut live, mut held) = (Vec::new(), 0u64);
        for ((shape, _), (.., stays)) in typical.iter().zip(&tasks) {
            let id = fleet.shape(shape);
            if let Some(place) = fleet.place(id, &mut chance) {
                prop_assert_eq!(place.gpus.count_ones(), u32::from(shape.gpus));
                held += shape.total();
                if !stays {
                    fleet.release(&place);
                    held -= shape.total();
                } else {
                    live.push(place);
                }
            }
            prop_assert_eq!(fleet.idle() + held, 7000);
            prop_assert!(fleet.fragments() <= fleet.idle());
        }
        for place in live {
            fleet.release(&place);
        }
        prop_assert_eq!(fleet.idle(), 7000);
        prop_assert_eq!(fleet.left(0), (16_000, 1 << 20, vec![1000; 4]));
    }
}
