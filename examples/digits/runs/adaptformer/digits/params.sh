python -m examples.digits.train --threads 1 tune --dataset digits --method adaptformer --bit 1 --dim 32 --r_layer 6 --scale 0.1 --lr 1e-2 --epochs 16 --batch-size 8 --val-every 3
