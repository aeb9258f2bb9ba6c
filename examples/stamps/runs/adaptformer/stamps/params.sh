python -m examples.stamps.train --threads 1 tune --dataset stamps --method adaptformer --bit 1 --dim 64 --r_layer 6 --scale 1 --lr 2e-3 --epochs 8 --batch-size 16 --val-every 1
