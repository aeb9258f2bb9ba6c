python -m examples.digits.train --threads 1 tune --dataset digits --method adaptformer --bit 1 --dim 128 --r_layer 6 --scale 1 --lr 3e-3 --epochs 56 --batch-size 8 --val-every 7
